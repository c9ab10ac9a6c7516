"""The Trainer of a run: where it computes, and its callbacks, loggers and checkpoints."""

import os
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
from lightning.pytorch.strategies import DDPStrategy

from frostline.autograd.gradient_flow import GradientFlow
from frostline.commands.own_classes import build_own, own_classes
from frostline.commands.ranks import launched_outside
from frostline.config.commands import TrainConfig
from frostline.config.rules import SMALLEST_BF16_ON_CPU
from frostline.config.secret_values import hidden
from frostline.config.training import Callbacks, Device
from frostline.data.datamodule import ImageDataModule
from frostline.resume import ExactResume
from frostline.tracking.applied_rates import AppliedRates
from frostline.tracking.checkpoints import BEST, LAST, AtomicCheckpointIO, SaveOnInterrupt, checkpoint_callbacks
from frostline.tracking.compile_cost import CompileCost
from frostline.tracking.first_gradient import FirstGradient
from frostline.tracking.loggers import build_loggers
from frostline.tracking.progress_bar import progress
from frostline.tracking.throughput import Throughput


def build_trainer(config: TrainConfig, *, folder: Path, data: ImageDataModule) -> lightning.Trainer:
    """The Trainer of a run, with its checkpoints, loggers and everything else in the run folder."""
    options = config.trainer
    validates = data.images("val") is not None
    loggers = build_loggers(config.logger.as_dict(), folder=folder, settings=hidden(config.as_dict()))
    loggers += [build_own(key, own, save_dir=folder) for key, own in own_classes(config.logger, "logger")]
    callbacks = _callbacks(config, folder=folder, data=data, logs=bool(loggers))
    return lightning.Trainer(
        default_root_dir=folder,
        max_epochs=options.max_epochs,
        max_steps=options.max_steps or -1,
        accumulate_grad_batches=options.accumulate_grad_batches,
        gradient_clip_val=options.gradient_clip_val,
        gradient_clip_algorithm="norm" if options.gradient_clip_val else None,
        sync_batchnorm=options.sync_batchnorm,
        deterministic=options.deterministic,
        log_every_n_steps=options.log_every_n_steps,
        check_val_every_n_epoch=options.check_val_every_n_epoch,
        limit_train_batches=options.limit_train_batches or 1.0,
        limit_val_batches=(options.limit_val_batches or 1.0) if validates else 0,
        limit_test_batches=options.limit_test_batches or 1.0,
        num_sanity_val_steps=0,  # the loaders and the metrics are tested; a pass here would only cost a short run time
        logger=loggers or False,
        callbacks=callbacks,
        enable_progress_bar=any(isinstance(found, ProgressBar) for found in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,  # the datamodule divides the samples itself, without padding
        **device_options(
            config.device, precision=options.precision, run_folder=folder, image_size=config.data.image_size
        ),
    )


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
    strategy: str | DDPStrategy = "auto"
    if processes * device.num_nodes > 1:
        plugins.append(_cluster_environment())
        strategy = DDPStrategy(
            process_group_backend="nccl" if accelerator == "gpu" else "gloo",
            timeout=timedelta(seconds=device.timeout),
            find_unused_parameters=False,
        )
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


def monitored(callbacks: Callbacks, data: ImageDataModule) -> str | None:
    """The value that chooses the best checkpoint; None without validation images.

    Raises:
        ValueError: early stopping is asked for, but there is nothing to validate on.
    """
    images = data.images("val")
    if images is None:
        if callbacks.early_stopping_patience:
            raise ValueError("callbacks.early_stopping_patience: the data has no validation images to decide by")
        return None
    if callbacks.monitor != "auto":
        return callbacks.monitor
    return "val/loss" if images.labels is None else "val/accuracy"


def _callbacks(config: TrainConfig, *, folder: Path, data: ImageDataModule, logs: bool) -> list[Callback]:
    options = config.callbacks
    monitor = monitored(options, data)
    checkpoints = folder / "checkpoints"
    kept = checkpoint_callbacks(checkpoints, monitor=monitor, every_n_steps=options.checkpoint_every_n_steps)
    callbacks: list[Callback] = [ExactResume(), SaveOnInterrupt(checkpoints / f"{LAST}.ckpt"), *kept.values()]
    callbacks.append(Throughput())
    if monitor is not None and options.early_stopping_patience:
        patience = options.early_stopping_patience
        callbacks.append(
            EarlyStopping(monitor, patience=patience, mode=kept[BEST].mode, check_on_train_epoch_end=False)
        )
    if logs:
        callbacks.append(AppliedRates())
    if options.progress_bar:
        callbacks.append(progress())
    if options.gradient_flow_every_n_steps is not None:
        callbacks.append(GradientFlow(every_n_steps=options.gradient_flow_every_n_steps, attribute="network"))
    if config.trainer.compile:
        callbacks.append(CompileCost())
    if options.first_gradient:
        callbacks.append(FirstGradient())
    return [*callbacks, *(build_own(key, own) for key, own in own_classes(options, "callbacks"))]


def _cluster_environment() -> ClusterEnvironment:
    if not launched_outside():
        return LightningEnvironment()  # started by `ranks.start`
    # Requeueing has one owner, and it is not Lightning's handler, which deadlocks when ranks differ in pace.
    return TorchElasticEnvironment() if "TORCHELASTIC_RUN_ID" in os.environ else SLURMEnvironment(auto_requeue=False)
