"""Each command's config: the keys at its top, and its groups."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field

from frostline.config.augment import Augment
from frostline.config.autograd import TRUST_CHECKPOINT, GradientsKeys, GraphKeys, TourKeys
from frostline.config.data import Source
from frostline.config.freeze import Freeze
from frostline.config.model import Head, Model
from frostline.config.optimizer import Optimizer, Scheduler
from frostline.config.paths import PathText
from frostline.config.section import FILE, FOLDER, MISSING, OwnClass, Section
from frostline.config.speed import Cache, Speed
from frostline.config.training import PRECISION, Callbacks, Device, Loggers, Loss, Metrics, Precision, TrainerSection

Config = TypeVar("Config", bound=Section)


class RunGroups(Section):
    """All that describes a run."""

    model: Model
    head: Head
    freeze: Freeze
    data: Source
    augment: Augment
    loss: Loss
    optimizer: Optimizer
    scheduler: Scheduler
    device: Device
    trainer: TrainerSection
    callbacks: Callbacks
    metrics: Metrics
    logger: Loggers
    speed: Speed
    cache: Cache


class TrainKeys(Section):
    """Keys of a training run outside the groups."""

    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of weights, order and augmentation")
    fit: bool = Field(default=True, description="train; false only tests")
    test: bool = Field(default=True, description="evaluate the best checkpoint on the test images at the end")
    resume_from: PathText | None = Field(
        default=None,
        description="checkpoint of an interrupted run to go on from; with -m, an interrupted sweep's folder",
    )
    init_from: PathText | None = Field(
        default=None,
        description="frostline checkpoint whose weights a new run starts from, under any policy; its classifier is "
        "kept where it has the same form",
    )
    on_policy_change: Literal["refuse", "restart"] = Field(
        default="refuse",
        description="what resume_from does with a checkpoint of another freezing policy: `restart` keeps its weights "
        "and begins the first phase",
    )
    output_dir: PathText = Field(
        default="runs", json_schema_extra=FOLDER, description="folder in which each run gets a folder of its own"
    )


class EvaluateKeys(Section):
    """Keys of an evaluation outside the groups."""

    checkpoint: PathText = Field(description="path of a frostline checkpoint")
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    split: Literal["train", "val", "test"] = Field(default="test", description="which images of the data")
    batch_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="images per batch; null: as in training"
    )
    precision: Precision = Field(default="auto", description=PRECISION)
    output: PathText | None = Field(
        default=None, json_schema_extra=FILE, description="JSON file for the results; null: the terminal only"
    )


class PredictKeys(Section):
    """Keys of a prediction outside the groups."""

    checkpoint: PathText = Field(description="path of a frostline checkpoint")
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    inputs: PathText | Annotated[list[PathText], Field(min_length=1)] = Field(
        description="an image, a folder of images (with its subfolders), or a list of these"
    )
    output: PathText = Field(
        default="predictions.csv",
        json_schema_extra=FILE,
        description="CSV file for the predictions, in UTF-8; a file that is there is replaced. A name that a "
        "spreadsheet would take for a formula begins with `'`; a byte of a name that is not UTF-8 is written `\\xNN`",
    )
    top_k: int = Field(default=5, ge=1, description="classes written per image, most probable first")
    batch_size: int = Field(default=32, ge=1, description="images per batch")


class PlanKeys(Section):
    """Keys of the plan outside the groups."""

    seed: int = Field(
        default=0, ge=0, lt=2**32, description="seed; it chooses nothing that a plan shows, but configs carry it"
    )
    output: PathText | None = Field(
        default=None, json_schema_extra=FILE, description="picture of the phases (.svg, .png or .pdf); null: none"
    )
    export: PathText | None = Field(
        default=None,
        json_schema_extra=FILE,
        description="YAML file for the policy, to be edited and given back as freeze=file freeze.path=…; null: none",
    )


class PackKeys(Section):
    """Keys of packing outside the groups."""

    output: PathText = Field(
        json_schema_extra=FOLDER, description="the packed folder; it must not be there yet, or be empty"
    )
    chunk_size: float = Field(default=64.0, gt=0, le=2048, description="MiB of the files that images are packed into")
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the order in which training images are packed")
    skip_broken: bool = Field(
        default=False, description="leave out images that cannot be read; false refuses to pack, and names them"
    )


class TrainConfig(RunGroups, TrainKeys):
    """The config of `frostline train`."""


class PlanConfig(RunGroups, PlanKeys):
    """The config of `frostline plan`."""


class GraphConfig(RunGroups, GraphKeys):
    """The config of `frostline graph`."""


class GradientsConfig(RunGroups, GradientsKeys):
    """The config of `frostline gradients`."""


class EvaluateConfig(EvaluateKeys):
    """The config of `frostline evaluate`."""

    device: Device
    data: Source | None = None


class PredictConfig(PredictKeys):
    """The config of `frostline predict`."""

    device: Device


class PackConfig(PackKeys):
    """The config of `frostline pack`."""

    data: Source


@dataclass(frozen=True, kw_only=True)
class Group:
    """A config group: one section for all its options, or one for each value of the key `name`."""

    section: type[Section] | None = None
    by_name: Mapping[str, type[Section]] = field(default_factory=dict)
    own: type[OwnClass] | None = None  # for a class of the user's, named by `_target_`

    @classmethod
    def of(cls, annotation: Any) -> "Group | None":
        """The group that a config's field is; None for a key."""
        parts = [part for part in get_args(annotation) or (annotation,) if isinstance(part, type)]
        sections = [part for part in parts if issubclass(part, Section)]
        own = next((part for part in sections if issubclass(part, OwnClass)), None)
        names = {
            name: section
            for section in sections
            if "name" in section.model_fields
            for name in get_args(section.model_fields["name"].annotation)
        }
        if len(sections) == 1:
            return cls(section=sections[0])
        return cls(by_name=names, own=own) if sections else None

    def schema_of(self, node: Mapping[str, Any]) -> type[Section] | None:
        """The section of a composed node, or None if its `name` is unknown."""
        if self.section is not None:
            return self.section
        if "_target_" in node and self.own is not None:
            return self.own
        return self.by_name.get(str(node.get("name")))


@functools.cache
def groups_of(config: type[Section]) -> dict[str, Group]:
    """The groups among a config's fields, by name."""
    found = {name: Group.of(described.annotation) for name, described in config.model_fields.items()}
    return {name: group for name, group in found.items() if group is not None}


def config_of(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    """The typed config of sound composed settings; keys that it does not have are left out.

    Raises:
        pydantic.ValidationError: a value is of another type or range; a key is missing.
    """
    values: dict[str, Any] = {key: settings[key] for key in kind.model_fields if key in settings}
    for name, group in groups_of(kind).items():
        node = values.get(name)
        if isinstance(node, Mapping) and (schema := group.schema_of(node)) is not None:
            values[name] = schema.model_validate(given(node))
    return kind.model_validate(given(values))


def stored_settings(kind: type[Section], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a checkpoint without keys that another version had."""
    kept: dict[str, Any] = {}
    for key in kind.model_fields.keys() & settings.keys():
        group, node = groups_of(kind).get(key), settings[key]
        schema = group.schema_of(node) if group is not None and isinstance(node, Mapping) else None
        if schema is None or issubclass(schema, OwnClass):
            kept[key] = node
        else:
            kept[key] = {name: value for name, value in node.items() if name in schema.model_fields}
    return kept


def given(node: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that have a value."""
    return {str(key): value for key, value in node.items() if value != MISSING}


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command's config consists of."""

    help: str
    keys: type[Section]
    config: type[Section]
    selectors: tuple[str, ...] = ()  # groups whose options only set keys of other groups

    @property
    def groups(self) -> Mapping[str, Group]:
        """The config's groups, by name."""
        return groups_of(self.config)


RUN_GROUPS: Mapping[str, Group] = groups_of(RunGroups)

COMMANDS: dict[str, Command] = {
    "train": Command(
        help="Train a classifier and test it.", keys=TrainKeys, config=TrainConfig, selectors=("experiment",)
    ),
    "evaluate": Command(help="Evaluate a checkpoint on data.", keys=EvaluateKeys, config=EvaluateConfig),
    "predict": Command(help="Predict the classes of images in files.", keys=PredictKeys, config=PredictConfig),
    "plan": Command(
        help="Show which stage a run would train when, and what that saves; train nothing.",
        keys=PlanKeys,
        config=PlanConfig,
        selectors=("experiment",),
    ),
    "pack": Command(
        help="Pack images into a few large files, for data=streaming from a disk or a store.",
        keys=PackKeys,
        config=PackConfig,
    ),
    "graph": Command(
        help="Draw the autograd graph of a run or a checkpoint, with its frost line.",
        keys=GraphKeys,
        config=GraphConfig,
        selectors=("experiment",),
    ),
    "gradients": Command(
        help="Measure what gradient reaches each stage of a run or a checkpoint.",
        keys=GradientsKeys,
        config=GradientsConfig,
        selectors=("experiment",),
    ),
    "tour": Command(help="Explain autograd by statements that run, in the terminal.", keys=TourKeys, config=TourKeys),
}
