"""The Trainer of a run: where it computes, and its callbacks, loggers and checkpoints."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy

from frostline.autograd.gradient_flow import GradientFlow
from frostline.checkpoint import CHECKPOINT_KEY, read_description
from frostline.commands.build import wants_fused
from frostline.commands.launcher import launched_outside
from frostline.commands.own_classes import build_own, own_classes
from frostline.commands.resuming import Change, applied
from frostline.commands.run_record import RunRecord
from frostline.config.commands import TrainConfig
from frostline.config.rules import SMALLEST_BF16_ON_CPU
from frostline.config.secret_values import hidden
from frostline.config.training import Device, OwnProfiler, OwnStrategy, TrainerSection
from frostline.data.datamodule import ImageDataModule
from frostline.models.weights import LoadedWeights
from frostline.moving_average import MovingAverage
from frostline.results.callback import ResultPictures
from frostline.resume import ChangedOptimizer, ExactResume, TimeLimit
from frostline.storage.run_files import BEST, CHECKPOINTS, METRICS, PICTURES, last_checkpoint
from frostline.tracking.applied_rates import AppliedRates
from frostline.tracking.checkpoints import AtomicCheckpointIO, SaveOnInterrupt, checkpoint_callbacks
from frostline.tracking.compile_cost import CompileCost
from frostline.tracking.epoch_lines import EpochLines
from frostline.tracking.first_gradient import FirstGradient
from frostline.tracking.loggers import build_loggers
from frostline.tracking.progress_bar import RunProgress
from frostline.tracking.throughput import Throughput

# Keys that are arguments of Lightning's Trainer as they are.
AS_THEY_ARE = (
    *("max_epochs", "min_epochs", "min_steps", "accumulate_grad_batches", "gradient_clip_val", "sync_batchnorm"),
    *("deterministic", "benchmark", "inference_mode", "detect_anomaly", "log_every_n_steps", "fast_dev_run"),
    *("check_val_every_n_epoch", "val_check_interval", "num_sanity_val_steps", "limit_test_batches"),
    *("enable_checkpointing", "enable_model_summary"),
)
PROFILERS: Mapping[str, type[Any]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def build_trainer(
    config: TrainConfig, *, folder: Path, data: ImageDataModule, weights: LoadedWeights
) -> lightning.Trainer:
    """The Trainer of a run, with its checkpoints, loggers and everything else in the run folder."""
    options = config.trainer
    loggers: list[Logger] = []
    if not options.fast_dev_run:
        loggers += build_loggers(
            config.logger.as_dict(), folder=folder, settings=hidden(config.as_dict()), first_step=_first_step(config)
        )
        loggers += [build_own(key, own, save_dir=folder) for key, own in own_classes(config.logger, "logger")]
    changes = [] if config.resume_from is None else _changes(config, config.resume_from)
    tests = config.test and data.images("test") is not None
    record = RunRecord(folder, weights=weights, changes=changes, tests=tests)
    callbacks = [record, *_callbacks(config, folder=folder, data=data, logs=bool(loggers))]
    if changes:
        places = [(change.key.partition("."), change) for change in changes]
        values = {name: (change.before, change.now) for (group, _, name), change in places if group == "optimizer"}
        callbacks.append(ChangedOptimizer(values=values, fused=wants_fused(config)))
    arguments = {name: getattr(options, name) for name in AS_THEY_ARE}
    trainer = lightning.Trainer(
        **arguments,
        default_root_dir=folder,
        max_steps=options.max_steps or -1,
        gradient_clip_algorithm=options.gradient_clip_algorithm if options.gradient_clip_val else None,
        limit_train_batches=options.overfit_batches or options.limit_train_batches,
        limit_val_batches=_val_batches(options) if data.images("val") is not None else 0,
        profiler=_profiler(options.profiler, folder),
        logger=loggers or False,
        callbacks=callbacks,
        enable_progress_bar=any(isinstance(found, ProgressBar) for found in callbacks),
        use_distributed_sampler=False,  # the datamodule divides the samples itself, without padding
        **device_options(config.device, precision=options.precision, run_folder=folder, image_size=data.image_size),
    )
    _leave_cores_to_workers(config, data, trainer)
    return trainer


def _first_step(config: TrainConfig) -> int | None:
    """The step that a resumed run takes first."""
    if config.resume_from is None:
        return None
    return int(read_description(config.resume_from, key="resume_from")["global_step"])


def _changes(config: TrainConfig, resume_from: str) -> list[Change]:
    stored = read_description(resume_from, key="resume_from")[CHECKPOINT_KEY]["settings"]
    return applied(stored, config.as_dict())


def _leave_cores_to_workers(config: TrainConfig, data: ImageDataModule, trainer: lightning.Trainer) -> None:
    """Compute with as many threads as the loader's workers leave cores, where the config names no number."""
    data.trainer = trainer
    if config.fit and config.device.threads is None and (threads := data.threads_beside_workers):
        torch.set_num_threads(threads)


def _val_batches(options: TrainerSection) -> int | float | None:
    return options.overfit_batches or options.limit_val_batches


def _profiler(chosen: OwnProfiler | str | None, folder: Path) -> Profiler | None:
    """The profiler, which writes into the run folder: on the terminal its tables would break up the progress bar."""
    place = {"dirpath": folder, "filename": "profile"}
    if isinstance(chosen, OwnProfiler):
        own: Profiler = build_own("trainer.profiler", chosen, **place)
        return own
    return None if chosen is None else PROFILERS[chosen](**place)


def torch_device(device: Device) -> str:
    """Where a command that has no Trainer computes: `cuda` or `cpu`."""
    return "cuda" if device_options(device)["accelerator"] == "gpu" else "cpu"


def device_options(
    device: Device,
    *,
    precision: str = "32-true",
    run_folder: Path | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """The Trainer's arguments that say where and in which precision it computes.

    Args:
        image_size: of the images that gradients are computed for; None where there are no gradients.
    """
    accelerator = device.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if device.threads:
        torch.set_num_threads(device.threads)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or device.devices
    if processes == "all":
        processes = torch.cuda.device_count() if accelerator == "gpu" else 1
    plugins: list[Any] = [AtomicCheckpointIO(run_folder=run_folder)]
    strategy: str | Strategy = "auto"
    several: dict[str, Any] = {
        "process_group_backend": "nccl" if accelerator == "gpu" else "gloo",
        "timeout": timedelta(seconds=device.timeout),
    }
    if processes * device.num_nodes > 1:
        plugins.append(_cluster_environment())
        strategy = DDPStrategy(**several, find_unused_parameters=False)
    if isinstance(device.strategy, OwnStrategy):
        strategy = build_own("device.strategy", device.strategy, **several)
    return {
        "accelerator": accelerator,
        "devices": processes,
        "num_nodes": device.num_nodes,
        "strategy": strategy,
        "plugins": plugins,
        "precision": native_precision(accelerator, image_size=image_size) if precision == "auto" else precision,
    }


def native_precision(accelerator: str, *, image_size: int | None = None) -> str:
    """bf16-mixed where the hardware computes bf16 natively, and its gradients are right, else 32-true.

    Natively means: a GPU of compute capability 8.0 or more; a CPU with avx512_bf16 or amx_bf16.
    """
    if accelerator == "gpu":
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "32-true"
    if image_size is not None and image_size < SMALLEST_BF16_ON_CPU:
        return "32-true"
    capable = torch.cpu.get_capabilities()
    return "bf16-mixed" if capable.get("avx512_bf16") or capable.get("amx_bf16") else "32-true"


def monitored(config: TrainConfig, data: ImageDataModule) -> str | None:
    """The value that chooses the best checkpoint; None without a validation.

    Raises:
        ValueError: early stopping is asked for, but there is nothing to validate on.
    """
    images, callbacks = data.images("val"), config.callbacks
    if images is None or _val_batches(config.trainer) == 0:
        if callbacks.early_stopping_patience:
            reason = (
                "the data has no validation images" if images is None else "trainer.limit_val_batches=0 leaves none"
            )
            raise ValueError(f"callbacks.early_stopping_patience: {reason} to decide by")
        return None
    if callbacks.monitor != "auto":
        return callbacks.monitor
    return "val/loss" if images.labels is None else "val/accuracy"


def _callbacks(config: TrainConfig, *, folder: Path, data: ImageDataModule, logs: bool) -> list[Callback]:
    options = config.callbacks
    monitor = monitored(config, data)
    kept = checkpoint_callbacks(
        folder / CHECKPOINTS,
        monitor=monitor,
        every_n_steps=options.checkpoint_every_n_steps,
        within_epochs=config.trainer.val_check_interval is not None,
    )
    averaging = [MovingAverage()] if config.averaging == "ema" else []  # first: what saves a step has its average
    callbacks: list[Callback] = [*averaging, ExactResume(), SaveOnInterrupt(last_checkpoint(folder))]
    if config.trainer.enable_checkpointing:
        callbacks += kept.values()
    callbacks.append(Throughput())
    if monitor is not None and options.early_stopping_patience:
        patience = options.early_stopping_patience
        callbacks.append(
            EarlyStopping(monitor, patience=patience, mode=kept[BEST].mode, check_on_train_epoch_end=False)
        )
    if config.trainer.max_time is not None:
        callbacks.append(TimeLimit(config.trainer.max_time))
    if logs:
        callbacks.append(AppliedRates())
    callbacks.append(EpochLines())
    if options.progress_bar:
        callbacks.append(RunProgress())
    if logs and options.gradient_flow_every_n_steps is not None:  # a fast_dev_run has no logger
        callbacks.append(GradientFlow(every_n_steps=options.gradient_flow_every_n_steps, attribute="network"))
    if config.trainer.compile:
        callbacks.append(CompileCost())
    if options.pictures and not config.trainer.fast_dev_run:
        tested = config.test and data.images("test") is not None
        split, metrics = "test" if tested else "val", folder / METRICS
        callbacks.append(ResultPictures(folder / PICTURES, data=data, split=split, metrics=metrics))
    if options.first_gradient:
        callbacks.append(FirstGradient())
    return [*callbacks, *(build_own(key, own) for key, own in own_classes(options, "callbacks"))]


def _cluster_environment() -> ClusterEnvironment:
    if not launched_outside():
        return LightningEnvironment()  # started by `ranks.start`
    # Requeueing has one owner, and it is not Lightning's handler, which deadlocks when ranks differ in pace.
    return TorchElasticEnvironment() if "TORCHELASTIC_RUN_ID" in os.environ else SLURMEnvironment(auto_requeue=False)
