"""From the sections of a resolved config to objects. Nothing below this room sees a config."""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
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
from torch import nn

from frostline.autograd.gradient_flow import GradientFlow
from frostline.checkpoint import CHECKPOINT_KEY, read_checkpoint
from frostline.classifier import ImageClassifier, OptimizerBuilder
from frostline.commands.arguments import with_keys
from frostline.commands.ranks import launched_outside
from frostline.config.paths import absolute
from frostline.config.rules import SMALLEST_BF16_ON_CPU
from frostline.config.secret_values import hidden
from frostline.data.datamodule import ImageDataModule
from frostline.freezing.policy import FreezePolicy
from frostline.losses import build_loss
from frostline.models.network import build_network
from frostline.models.saved_file import read_plain
from frostline.models.weights import LoadedWeights
from frostline.options import CheckpointOptions, ComputeOptions, FeatureCache, OptimizerOptions
from frostline.resume import ExactResume
from frostline.schedulers import SCHEDULERS
from frostline.signatures import check_signature, find_class
from frostline.tracking.applied_rates import AppliedRates
from frostline.tracking.checkpoints import BEST, LAST, AtomicCheckpointIO, SaveOnInterrupt, checkpoint_callbacks
from frostline.tracking.compile_cost import CompileCost
from frostline.tracking.first_gradient import FirstGradient
from frostline.tracking.loggers import build_loggers
from frostline.tracking.progress_bar import progress
from frostline.tracking.throughput import Throughput

TORCH_OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    name.lower(): optimizer
    for name, optimizer in vars(torch.optim).items()
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
}


def build_classifier(settings: Mapping[str, Any], data: ImageDataModule) -> tuple[ImageClassifier, LoadedWeights]:
    """The classifier that a training config describes, sized from the data, and where its weights are from.

    Raises:
        ValueError, FileNotFoundError: a part of the config does not fit the data or another part.
    """
    weights = settings.get("init_from") or settings["model"]["weights"]
    known = _known_classes(settings)
    same = known is None or data.take_order(known)
    others = "" if known is None or same else f"{_listed(known)} in the checkpoint, {_listed(data.classes)} in the data"
    if others and settings.get("resume_from"):
        raise ValueError(
            f"resume_from: the classes are others: {others}. Name the data of the checkpoint, or start a new run from "
            f"its weights: init_from={settings['resume_from']} in place of resume_from"
        )
    recipe = {"model": _without(settings["model"], "weights"), "head": dict(settings["head"])}
    network, loaded = build_network(
        model=recipe["model"], head=recipe["head"], classes=len(data.classes), weights=weights, same_classes=same
    )
    if loaded.warning:
        loaded = replace(loaded, warning=with_keys(loaded.warning))
    if others:
        loaded = replace(loaded, warning=f"the head starts from RANDOM weights, as its classes are others: {others}")
    policy = FreezePolicy.from_dict(_without(settings["freeze"], "name"))
    classifier = ImageClassifier(
        network=network,
        images=data.describe(),
        policy=policy,
        must_train=_new_head(loaded),
        loss=_loss(settings["loss"], data),
        optimizer=optimizer_builder(settings["optimizer"], fused=wants_fused(settings)),
        scheduler=SCHEDULERS[settings["scheduler"]["name"]](**_without(settings["scheduler"], "name")),
        recipe=hidden(recipe),
        compute=ComputeOptions(
            channels_last=settings["trainer"]["channels_last"],
            compile=settings["trainer"]["compile"],
            frozen_prefix=settings["speed"]["frozen_prefix"],
            feature_cache=feature_cache(settings["cache"]) if settings["speed"]["feature_cache"] else None,
        ),
        optimizer_options=OptimizerOptions(
            exclude_from_decay=settings["optimizer"].get("exclude_from_decay", []),
            include_frozen=settings["optimizer"].get("include_frozen", False),
        ),
        checkpoint_options=CheckpointOptions(
            settings=hidden(settings), on_policy_change=settings.get("on_policy_change", "refuse")
        ),
    )
    return classifier, loaded


def _known_classes(settings: Mapping[str, Any]) -> list[str] | None:
    """The classes of the frostline checkpoint that a run starts from; None where it starts from anything else."""
    for key in ("resume_from", "init_from"):  # a plain state dict is model.weights' business
        if settings.get(key):
            images = read_checkpoint(settings[key], key=key)[CHECKPOINT_KEY]["images"]
            return [str(name) for name in images["classes"]]
    weights = Path(settings["model"]["weights"])
    if weights.suffix == ".ckpt" and weights.is_file():
        content = read_plain(weights)
        if isinstance(content, dict) and CHECKPOINT_KEY in content:
            return [
                str(name) for name in read_checkpoint(weights, key="model.weights")[CHECKPOINT_KEY]["images"]["classes"]
            ]
    return None


def _listed(names: Sequence[str]) -> str:
    """The names, up to 20 of them."""
    return f"{len(names)} ({', '.join(names[:20])}{', …' if len(names) > 20 else ''})"


def feature_cache(options: Mapping[str, Any]) -> FeatureCache:
    """Where features are kept: in the folder that is named, in the one that the environment names for all runs, or
    where this system keeps what can be computed again."""
    caches = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/frostline/features"
    folder = Path(options["folder"] or absolute(os.environ.get("FROSTLINE_CACHE") or caches))
    return FeatureCache(folder=folder, limit_bytes=round(options["limit_gb"] * 10**9), views=options["views"])


def wants_fused(settings: Mapping[str, Any]) -> bool:
    """Whether to take fused optimizers: they unscale gradients themselves, so that these cannot be clipped before."""
    scaled = settings["trainer"]["precision"] == "16-mixed"
    return settings["speed"]["fused_optimizer"] and not (scaled and settings["trainer"]["gradient_clip_norm"])


def optimizer_builder(options: Mapping[str, Any], *, fused: bool = False) -> OptimizerBuilder:
    """Builds a torch optimizer by name, or one of the user's own, from parameter groups.

    Args:
        fused: take torch's fused form where it has one.

    Raises:
        ValueError: a class of the user's own that does not exist, or does not take these options.
    """
    arguments = _without(options, "name", "_target_", "exclude_from_decay", "include_frozen")
    if "_target_" in options:
        own = find_class(options["_target_"], subclass_of=torch.optim.Optimizer, what="optimizer")
        decay = arguments.get("weight_decay")
        if decay is None or (decay == 0 and "weight_decay" not in inspect.signature(own).parameters):
            arguments.pop("weight_decay", None)  # None: the class's own default
        check_signature(own, arguments, what="optimizer", given=("params",))
        return partial(own, **arguments)
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    found = TORCH_OPTIMIZERS[options["name"]]
    if fused and "fused" in inspect.signature(found).parameters:
        arguments["fused"] = True
    return partial(found, **arguments)


def build_trainer(settings: Mapping[str, Any], *, folder: Path, data: ImageDataModule) -> lightning.Trainer:
    """The Trainer of a run, with its checkpoints, loggers and everything else in the run folder."""
    options, device = settings["trainer"], settings["device"]
    validates = data.images("val") is not None
    loggers = build_loggers(settings["logger"], folder=folder, settings=hidden(settings))
    callbacks = _callbacks(settings, folder=folder, data=data, logs=bool(loggers))
    return lightning.Trainer(
        default_root_dir=folder,
        max_epochs=options["max_epochs"],
        max_steps=options["max_steps"] or -1,
        accumulate_grad_batches=options["accumulate_grad_batches"],
        gradient_clip_val=options["gradient_clip_norm"],
        gradient_clip_algorithm="norm" if options["gradient_clip_norm"] else None,
        sync_batchnorm=options["sync_batchnorm"],
        deterministic=options["deterministic"],
        log_every_n_steps=options["log_every_n_steps"],
        check_val_every_n_epoch=options["validate_every_n_epochs"],
        limit_train_batches=options["limit_train_batches"] or 1.0,
        limit_val_batches=(options["limit_val_batches"] or 1.0) if validates else 0,
        limit_test_batches=options["limit_test_batches"] or 1.0,
        num_sanity_val_steps=0,  # the loaders and the metrics are tested; a pass here would only cost a short run time
        logger=loggers or False,
        callbacks=callbacks,
        enable_progress_bar=any(isinstance(found, ProgressBar) for found in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,  # the datamodule divides the samples itself, without padding
        **device_options(
            device, precision=options["precision"], run_folder=folder, image_size=settings["data"]["image_size"]
        ),
    )


def device_options(
    device: Mapping[str, Any],
    *,
    precision: str = "32-true",
    run_folder: Path | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """The Trainer's arguments that say where and in which precision it computes.

    Args:
        image_size: of the images that gradients are computed for; None where there are no gradients.
    """
    accelerator = device["accelerator"]
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if device["threads"]:
        torch.set_num_threads(device["threads"])
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or device["devices"]
    if processes == "all":
        processes = torch.cuda.device_count() if accelerator == "gpu" else 1
    plugins: list[Any] = [AtomicCheckpointIO(run_folder=run_folder)]
    strategy: str | DDPStrategy = "auto"
    if processes * device["num_nodes"] > 1:
        plugins.append(_cluster_environment())
        strategy = DDPStrategy(
            process_group_backend="nccl" if accelerator == "gpu" else "gloo",
            timeout=timedelta(seconds=device["timeout"]),
            find_unused_parameters=False,
        )
    return {
        "accelerator": accelerator,
        "devices": processes,
        "num_nodes": device["num_nodes"],
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


def monitored(settings: Mapping[str, Any], data: ImageDataModule) -> str | None:
    """The value that chooses the best checkpoint; None without validation images.

    Raises:
        ValueError: early stopping is asked for, but there is nothing to validate on.
    """
    callbacks = settings["callbacks"]
    images = data.images("val")
    if images is None:
        if callbacks["early_stopping_patience"]:
            raise ValueError("callbacks.early_stopping_patience: the data has no validation images to decide by")
        return None
    if callbacks["monitor"] != "auto":
        return str(callbacks["monitor"])
    return "val/loss" if images.labels is None else "val/accuracy"


def _callbacks(settings: Mapping[str, Any], *, folder: Path, data: ImageDataModule, logs: bool) -> list[Callback]:
    options = settings["callbacks"]
    monitor = monitored(settings, data)
    checkpoints = folder / "checkpoints"
    kept = checkpoint_callbacks(checkpoints, monitor=monitor, every_n_steps=options["checkpoint_every_n_steps"])
    callbacks: list[Callback] = [ExactResume(), SaveOnInterrupt(checkpoints / f"{LAST}.ckpt"), *kept.values()]
    callbacks.append(Throughput())
    if monitor is not None and options["early_stopping_patience"]:
        patience = options["early_stopping_patience"]
        callbacks.append(
            EarlyStopping(monitor, patience=patience, mode=kept[BEST].mode, check_on_train_epoch_end=False)
        )
    if logs:
        callbacks.append(AppliedRates())
    if options["progress_bar"]:
        callbacks.append(progress())
    if options["gradient_flow_every_n_steps"] is not None:
        callbacks.append(GradientFlow(every_n_steps=options["gradient_flow_every_n_steps"], attribute="network"))
    if settings["trainer"]["compile"]:
        callbacks.append(CompileCost())
    if options["first_gradient"]:
        callbacks.append(FirstGradient())
    return callbacks


def _cluster_environment() -> ClusterEnvironment:
    if not launched_outside():
        return LightningEnvironment()  # started by `ranks.start`
    # Requeueing has one owner, and it is not Lightning's handler, which deadlocks when ranks differ in pace.
    return TorchElasticEnvironment() if "TORCHELASTIC_RUN_ID" in os.environ else SLURMEnvironment(auto_requeue=False)


def _loss(options: Mapping[str, Any], data: ImageDataModule) -> nn.Module:
    arguments = _without(options, "name", "class_weights")
    if options.get("class_weights") == "balanced":
        arguments["class_weights"] = data.class_weights().tolist()
    return build_loss(options["name"], **arguments)


def _new_head(loaded: LoadedWeights) -> tuple[str, ...]:
    """A head that starts from random weights trains whatever the policy says."""
    return ("fc.*",) if any(name.startswith("fc.") for name in loaded.initialised) else ()


def _without(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}
