"""From a typed config to the objects of a run: data, classifier, optimizer, loss."""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torchmetrics import Metric

from frostline.checkpoint import CHECKPOINT_KEY, read_checkpoint, read_description
from frostline.classifier import ImageClassifier
from frostline.commands.arguments import with_keys
from frostline.commands.optimizers import optimizer_builder, scheduler_builder
from frostline.commands.own_classes import build_own
from frostline.config.augment import Augment, OwnAugment
from frostline.config.commands import TrainConfig
from frostline.config.data import Data, Source
from frostline.config.freeze import Freeze
from frostline.config.groups import RunGroups
from frostline.config.model import Model, OwnBackbone
from frostline.config.paths import absolute
from frostline.config.recommended import AUTO, LARGEST_BATCH
from frostline.config.secret_values import hidden
from frostline.config.speed import Cache
from frostline.config.training import CrossEntropy, Loss, Metrics, OwnLoss
from frostline.data.build import build_source, source_class
from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.source import ImageSource
from frostline.data.transforms import Augmentation
from frostline.freezing.policy import FreezePolicy
from frostline.freezing.selectors import stages_of
from frostline.losses import build_loss
from frostline.models.backbones import inputs_of
from frostline.models.network import build_network
from frostline.models.saved_file import read_plain
from frostline.models.weights import LoadedWeights
from frostline.options import CheckpointOptions, ComputeOptions, FeatureCache, TrainingOptions
from frostline.storage.names import first_of


def build_data(
    source: Source,
    augment: Augment | None = None,
    *,
    seed: int,
    model: Model | None = None,
    constructor: Mapping[str, Any] | None = None,
    built: ImageSource | None = None,
    same_batches: bool = False,
) -> ImageDataModule:
    """The datamodule of a config.

    Args:
        augment: None: training images as they are.
        model: whose images' size, interpolation, mean and deviation are taken where the source names none.
        constructor: arguments of the source's class that no config holds.
        built: the source, where it has been built already.

    Raises:
        ValueError: the source's class does not take these keys, or the values do not fit together.
    """
    keys = source.model_dump(by_alias=True, exclude=set(Data.model_fields)) | dict(constructor or {})
    inputs = inputs_of(None if model is None or isinstance(model, OwnBackbone) else model.name)
    image_size = source.image_size or inputs.image_size
    if "image_size" in inspect.signature(source_class(keys)).parameters:
        keys["image_size"] = image_size
    if isinstance(augment, OwnAugment):
        own = build_own("augment", augment)
        chosen = {"name": augment.target, "own": own, "mixup": augment.mixup, "cutmix": augment.cutmix}
    else:
        chosen = {"name": "none"} if augment is None else dict(augment)
    return ImageDataModule(
        source=built or build_source(keys),
        image_size=image_size,
        batch_size=LARGEST_BATCH if source.batch_size == AUTO else source.batch_size,
        resize=source.resize,
        interpolation=source.interpolation or inputs.interpolation,
        augment=Augmentation(**chosen, horizontal_flip=source.horizontal_flip),
        sampling=source.sampling,
        mean=source.mean or inputs.mean,
        std=source.std or inputs.std,
        loading=Loading(workers=None if source.workers == "auto" else source.workers, timeout=source.loader_timeout),
        seed=seed,
        same_batches=same_batches,
    )


def build_classifier(config: RunGroups, data: ImageDataModule) -> tuple[ImageClassifier, LoadedWeights]:
    """The classifier that a training config describes, sized from the data, and where its weights are from.

    Raises:
        ValueError, FileNotFoundError: a part of the config does not fit the data or another part.
    """
    training = config if isinstance(config, TrainConfig) else None
    init_from, resume_from = (training.init_from, training.resume_from) if training else (None, None)
    known = _known_classes(config)
    same = known is None or data.take_order(known)
    others = "" if known is None or same else f"{listed(known)} in the checkpoint, {listed(data.classes)} in the data"
    if others and resume_from:
        raise ValueError(
            f"resume_from: the classes are others: {others}. Name the data of the checkpoint, or start a new run from "
            f"its weights: init_from={resume_from} in place of resume_from"
        )
    model = _without(config.model.as_dict(), "weights")
    recipe = {
        "model": model | inputs_of(model.get("name")).options(data.image_size),
        "head": config.head.as_dict(),
    }
    network, loaded = build_network(
        model=recipe["model"],
        head=recipe["head"],
        classes=len(data.classes),
        weights=init_from or config.model.weights,
        same_classes=same,
    )
    if loaded.warning:
        loaded = replace(loaded, warning=with_keys(loaded.warning))
    if others:
        loaded = replace(loaded, warning=f"the head starts from RANDOM weights, as its classes are others: {others}")
    classifier = ImageClassifier(
        network=network,
        data_spec=data.spec,
        policy=_policy_for(network, config.freeze).resolve(network, always_trainable=loaded.new_head),
        training=TrainingOptions(
            optimizer=optimizer_builder(config.optimizer, fused=wants_fused(config)),
            exclude_from_decay=config.optimizer.exclude_from_decay,
            scheduler=scheduler_builder(config.scheduler),
            loss=_loss(config.loss, data),
            metrics=own_metrics(config.metrics, classes=len(data.classes)),
        ),
        compute=ComputeOptions(
            channels_last=config.trainer.channels_last,
            compile=config.trainer.compile,
            frozen_prefix=config.speed.frozen_prefix,
            feature_cache=feature_cache(config.cache) if config.speed.feature_cache else None,
            engine=config.speed.engine,
        ),
        checkpoint=CheckpointOptions(
            recipe=hidden(recipe),
            settings=hidden(config.as_dict()),
            on_policy_change=training.on_policy_change if training else "refuse",
        ),
    )
    return classifier, loaded


def own_metrics(metrics: Metrics, *, classes: int) -> dict[str, Metric]:
    """The metrics of the user's own, by name.

    Raises:
        ValueError: there is no such class, it is no metric, or it does not take these keys.
    """
    sections = (metrics.model_extra or {}).items()
    return {name: build_own(f"metrics.{name}", own, num_classes=classes) for name, own in sections}


def _known_classes(config: RunGroups) -> list[str] | None:
    """The classes of the frostline checkpoint that a run starts from; None where it starts from anything else."""
    if isinstance(config, TrainConfig) and config.resume_from is not None:
        return _classes(read_description(config.resume_from, key="resume_from"))
    if isinstance(config, TrainConfig) and config.init_from is not None:
        return _classes(read_checkpoint(config.init_from, key="init_from"))
    weights = Path(config.model.weights)
    if weights.suffix == ".ckpt" and weights.is_file():
        content = read_plain(weights)
        if isinstance(content, dict) and CHECKPOINT_KEY in content:
            return _classes(read_checkpoint(weights, key="model.weights"))
    return None


def _classes(checkpoint: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in checkpoint[CHECKPOINT_KEY]["images"]["classes"]]


def listed(names: Sequence[str]) -> str:
    """How many names, and up to 20 of them."""
    return f"{len(names)} ({first_of(names, most=20)})"


def feature_cache(cache: Cache) -> FeatureCache:
    """Where features are kept: in the folder that is named, in the one that the environment names for all runs, or
    where this system keeps what can be computed again."""
    caches = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/frostline/features"
    folder = Path(cache.folder or absolute(os.environ.get("FROSTLINE_CACHE") or caches))
    return FeatureCache(folder=folder, limit_bytes=round(cache.limit_gb * 10**9), views=cache.views)


def wants_fused(config: RunGroups) -> bool:
    """Whether to take fused optimizers: they unscale gradients themselves, so that these cannot be clipped before."""
    scaled = config.trainer.precision == "16-mixed"
    return config.speed.fused_optimizer and not (scaled and config.trainer.gradient_clip_val)


def _loss(loss: Loss, data: ImageDataModule) -> nn.Module:
    if isinstance(loss, OwnLoss):
        own: nn.Module = build_own("loss", loss)
        return own
    arguments = _without(dict(loss), "name", "class_weights")
    if isinstance(loss, CrossEntropy) and loss.class_weights == "balanced":
        arguments["class_weights"] = data.class_weights().tolist()
    return build_loss(loss.name, **arguments)


def _policy_for(network: nn.Module, freeze: Freeze) -> FreezePolicy:
    """The policy; gradual_unfreezing with the network's last stages in place of a ResNet's."""
    policy, stages = freeze.policy(), list(stages_of(network))
    if freeze.name != "gradual_unfreezing" or "layer4" in stages or len(stages) < 4:
        return policy
    own = {"layer4": stages[-2], "layer3": stages[-3], "from:layer4": f"from:{stages[-2]}"}
    own["from:layer3"] = f"from:{stages[-3]}"
    described = policy.to_dict()
    for phase in described["phases"]:
        phase.update(name=own.get(phase["name"], phase["name"]), train=[own.get(word, word) for word in phase["train"]])
    return FreezePolicy.from_dict(described)


def _without(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}
