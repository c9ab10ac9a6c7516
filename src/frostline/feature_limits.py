"""What keeps a network from being split, features from being stored, and the frozen layers from being converted."""

import logging
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from frostline.data.datamodule import ImageDataModule
from frostline.freezing.checks import is_sharded
from frostline.freezing.lightning_internals import averages_weights
from frostline.prefix.engine import Engine
from frostline.prefix.split_model import SplitModel

log = logging.getLogger("frostline.fast_path")


def why_not_split(network: nn.Module) -> str | None:
    """Why a network cannot be split; None where it can."""
    if is_sharded(network):
        return "FSDP2 gathers its weights in hooks of the whole network"
    # One forward pre-hook is the policy's, which holds modes.
    if network._forward_hooks or len(network._forward_pre_hooks) > 1:
        return "hooks on the whole network would not see its parts"
    return None


def is_augmented(data: ImageDataModule) -> bool:
    """Whether training sees something else of an image than evaluation does."""
    return data.augment.name != "none"


def why_not_stored(data: ImageDataModule, split: str, *, views: int) -> str | None:
    """Why features of a split's images cannot be stored; None where they can."""
    images = data.images(split)
    assert images is not None
    if images.labels is None and getattr(images, "soft_labels", None) is None:
        return f"their labels are soft, and {type(images).__name__} has no `soft_labels`"
    if getattr(images, "identity", None) is None:
        return f"{type(images).__name__} cannot tell whether its images have changed (`identity`)"
    if split != "train":
        return None
    if data.augment.mixup or data.augment.cutmix:
        return "mixup and CutMix make new images of them in each batch"
    if is_augmented(data) and not views:
        return (
            f"augment={data.augment.name} makes new ones in each epoch (to store them: augment=none, or views=4 for "
            "four fixed views of each)"
        )
    return None


def decide_engine(
    engine: Engine, models: Iterable[SplitModel | None], *, trainer: "pl.Trainer", compiled: bool
) -> None:
    """Choose what computes the frozen layers of a fit, where that is still open.

    Args:
        models: the network split at the frost line of each phase.
    """
    data: Any = getattr(trainer, "datamodule", None)
    possible = (
        isinstance(data, ImageDataModule)
        and trainer.strategy.root_device.type == "cpu"
        and trainer.precision in ("32-true", "bf16-mixed")
        and not (compiled or averages_weights(trainer) or trainer.fast_dev_run)  # type: ignore[attr-defined]
        and not (trainer.precision == "bf16-mixed" and torch.cpu._is_amx_tile_supported())
    )
    splits = [data.images(split) for split in ("train", "val")] if possible else []
    images = sum(len(found) for found in splits if found is not None)
    work = (model.operations(data.image_size) for model in models if model is not None)
    line = engine.decide(work, images=images, possible=possible)
    engine.name = trainer.strategy.broadcast(engine.name)  # other machines may have other processors
    if line is not None and trainer.is_global_zero:
        log.info("%s", line)
