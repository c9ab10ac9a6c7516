"""A value in place of each `auto` that depends on the data and the weights, before a run begins."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch

from frostline.checkpoint import CHECKPOINT_KEY
from frostline.commands.build import build_data
from frostline.commands.config_files import PACKAGED
from frostline.commands.config_files import with_defaults as filled
from frostline.commands.run_length import steps_per_epoch, total_steps
from frostline.config.commands import TrainConfig
from frostline.config.freeze import Freeze, RecommendedPolicy
from frostline.config.groups import RUN_GROUPS, RunGroups
from frostline.config.model import Model, OwnBackbone
from frostline.config.optimizer import SGD
from frostline.config.recommended import (
    AUTO,
    batch_size_for,
    epochs_for,
    keys_left,
    learning_rate_for,
    recommended,
)
from frostline.config.rules import broken_rules, processes_of
from frostline.config.section import Section
from frostline.config.validation import ConfigError
from frostline.data.datamodule import full_batches
from frostline.data.source import ImageSource
from frostline.freezing.selectors import stages_of
from frostline.models.backbones import build_backbone
from frostline.models.weights import find_weights
from frostline.storage.yaml_file import read_mapping
from frostline.tables import as_text, new_table

Config = TypeVar("Config", bound=RunGroups)


@dataclass(frozen=True, kw_only=True)
class Chosen(Generic[Config]):
    """A config in which no key is `auto`.

    Attributes:
        text: names each chosen value, why, and its key; empty where none was to be chosen.
        source: the source of images that was read for it, if one was.
    """

    config: Config
    text: str = ""
    source: ImageSource | None = None


def without_auto(config: Config) -> Chosen[Config]:
    """Choose a value for each key that is `auto`.

    Raises:
        ConfigError: a chosen value breaks a rule between keys.
        ValueError, FileNotFoundError: the data or the weights cannot be read.
    """
    if not keys_left(config):
        return Chosen(config=config)
    data = build_data(config.data, seed=config.seed, model=config.model)
    images, pretrained = len(data.images("train") or ()), _is_pretrained(config)
    row, rows = recommended(pretrained=pretrained, images=images), list[tuple[str, str]]()
    freeze, batch = config.freeze, config.data.batch_size
    if isinstance(freeze, RecommendedPolicy):
        freeze = _policy(config.model, row.freeze, batch_norm=freeze.batch_norm, dropout=freeze.dropout)
        rows.append((f"freeze={freeze.name}", row.reason))
    optimizer, trainer = config.optimizer, config.trainer
    if isinstance(optimizer, SGD) and optimizer.lr == AUTO:
        optimizer = optimizer.model_copy(update={"lr": learning_rate_for(freeze.name, pretrained=pretrained)})
        rows.append((f"optimizer.lr={optimizer.lr}", f"for freeze={freeze.name} and {_weights(pretrained)} weights"))
    if batch == AUTO:
        batch = batch_size_for(images, processes=processes_of(config.device))
        rows.append((f"data.batch_size={batch}", f"{full_batches(images, batch):,} batches an epoch"))
    if trainer.max_epochs == AUTO:
        per_epoch = steps_per_epoch(trainer, full_batches(images, batch))
        epochs = epochs_for(trainer.max_steps or row.steps, steps_per_epoch=per_epoch)
        trainer = trainer.model_copy(update={"max_epochs": epochs})
        rows.append((f"trainer.max_epochs={epochs}", f"{total_steps(trainer, per_epoch):,} optimizer steps"))
    sections: dict[str, Section] = {"freeze": freeze, "optimizer": optimizer, "trainer": trainer}
    sections["data"] = config.data.model_copy(update={"batch_size": batch})
    chosen = config.model_copy(update=sections)
    if problems := broken_rules(dict(chosen)):
        raise ConfigError(problems)
    trains = not isinstance(config, TrainConfig) or config.fit
    text = _text(rows, images=images, pretrained=pretrained) if trains else ""
    return Chosen(config=chosen, text=text, source=data.source)


def with_stored(config: TrainConfig, checkpoint: Mapping[str, Any]) -> TrainConfig:
    """The config with a checkpoint's values in place of `auto`."""
    stored = checkpoint[CHECKPOINT_KEY]["settings"]
    for group, key in keys_left(config):
        before, section = stored.get(group) or {}, getattr(config, group)
        if key == "name" and before:
            section = RUN_GROUPS[group].section(before)
        elif key in before:
            section = section.model_copy(update={key: before[key]})
        config = config.model_copy(update={group: section})
    return config


def _is_pretrained(config: RunGroups) -> bool:
    if isinstance(config, TrainConfig) and config.init_from is not None:
        return True
    name = None if isinstance(config.model, OwnBackbone) else config.model.name
    return find_weights(config.model.weights, name=name).state is not None


def _policy(model: Model, name: str, **modes: str) -> Freeze:
    """The preset, or what `to_layer3` is in a network without a layer4: the last stage before the head trains."""
    node = read_mapping(PACKAGED / "freeze" / f"{name}.yaml")
    if name == "to_layer3":
        described = {key: value for key, value in model.as_dict().items() if key != "weights"}
        with nullcontext() if isinstance(model, OwnBackbone) else torch.device("meta"):
            stages = list(stages_of(build_backbone(described)))
        if "layer4" not in stages:
            node = {"name": "custom", "train": [f"from:{stages[-2]}" if len(stages) > 2 else "head"]}
    section: Any = RUN_GROUPS["freeze"].section(filled(f"freeze/{name}", node) | modes)
    return cast(Freeze, section)


def _text(rows: Sequence[tuple[str, str]], *, images: int, pretrained: bool) -> str:
    table = new_table("chosen", "why", left=("why",))
    for row in rows:
        table.add_row(*row)
    return (
        f"defaults for {images:,} training images and {_weights(pretrained)} weights; type a key to change it:\n"
        f"{as_text(table)}"
    )


def _weights(pretrained: bool) -> str:
    return "pretrained" if pretrained else "random"
