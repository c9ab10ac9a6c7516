"""Each command's config: the keys at its top, and the schema of each of its groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from frostline.config.augment import Augment
from frostline.config.autograd import TRUST_CHECKPOINT, GradientsKeys, GraphKeys, TourKeys
from frostline.config.data import DATA, OwnSource
from frostline.config.freeze import FREEZE
from frostline.config.model import HEADS, MODELS, OwnBackbone, OwnHead
from frostline.config.optimizer import OPTIMIZERS, SCHEDULERS, OwnOptimizer
from frostline.config.paths import PathText
from frostline.config.section import FILE, FOLDER, OwnClass, Section
from frostline.config.speed import Cache, Speed
from frostline.config.training import LOSSES, PRECISION, Callbacks, Device, Loggers, Precision, TrainerSection


@dataclass(frozen=True, kw_only=True)
class Group:
    """A config group: one schema for all its options, or one for each value of the key `name`."""

    section: type[Section] | None = None
    by_name: Mapping[str, type[Section]] = field(default_factory=dict)
    own: type[OwnClass] | None = None  # for a class of the user's, named by `_target_`

    def schema_of(self, node: Mapping[str, Any]) -> type[Section] | None:
        """The schema for a composed node, or None if its `name` is unknown."""
        if self.section is not None:
            return self.section
        if "_target_" in node and self.own is not None:
            return self.own
        return self.by_name.get(str(node.get("name")))


class TrainKeys(Section):
    """Keys of a training run outside the groups."""

    seed: int = Field(ge=0, lt=2**32, description="seed of weights, order and augmentation")
    fit: bool = Field(description="train; false only tests")
    test: bool = Field(description="evaluate the best checkpoint on the test images at the end")
    resume_from: PathText | None = Field(
        description="checkpoint of an interrupted run to go on from; with -m, an interrupted sweep's folder"
    )
    init_from: PathText | None = Field(
        description="frostline checkpoint whose weights a new run starts from, under any policy; its classifier is "
        "kept where it has the same form"
    )
    on_policy_change: Literal["refuse", "restart"] = Field(
        description="what resume_from does with a checkpoint of another freezing policy: `restart` keeps its weights "
        "and begins the first phase"
    )
    output_dir: PathText = Field(
        json_schema_extra=FOLDER, description="folder in which each run gets a folder of its own"
    )


class EvaluateKeys(Section):
    """Keys of an evaluation outside the groups."""

    checkpoint: PathText = Field(description="path of a frostline checkpoint")
    trust_checkpoint: bool = Field(description=TRUST_CHECKPOINT)
    split: Literal["train", "val", "test"] = Field(description="which images of the data")
    batch_size: Annotated[int, Field(ge=1)] | None = Field(description="images per batch; null: as in training")
    precision: Precision = Field(description=PRECISION)
    output: PathText | None = Field(
        json_schema_extra=FILE, description="JSON file for the results; null: the terminal only"
    )


class PredictKeys(Section):
    """Keys of a prediction outside the groups."""

    checkpoint: PathText = Field(description="path of a frostline checkpoint")
    trust_checkpoint: bool = Field(description=TRUST_CHECKPOINT)
    inputs: PathText | Annotated[list[PathText], Field(min_length=1)] = Field(
        description="an image, a folder of images (with its subfolders), or a list of these"
    )
    output: PathText = Field(
        json_schema_extra=FILE,
        description="CSV file for the predictions, in UTF-8; a file that is there is replaced. A name that a "
        "spreadsheet would take for a formula begins with `'`; a byte of a name that is not UTF-8 is written `\\xNN`",
    )
    top_k: int = Field(ge=1, description="classes written per image, most probable first")
    batch_size: int = Field(ge=1, description="images per batch")


class PlanKeys(Section):
    """Keys of the plan outside the groups."""

    seed: int = Field(ge=0, lt=2**32, description="seed; it chooses nothing that a plan shows, but configs carry it")
    output: PathText | None = Field(
        json_schema_extra=FILE, description="picture of the phases (.svg, .png or .pdf); null: none"
    )
    export: PathText | None = Field(
        json_schema_extra=FILE,
        description="YAML file for the policy, to be edited and given back as freeze=file freeze.path=…; null: none",
    )


class PackKeys(Section):
    """Keys of packing outside the groups."""

    output: PathText = Field(
        json_schema_extra=FOLDER, description="the packed folder; it must not be there yet, or be empty"
    )
    chunk_size: float = Field(gt=0, le=2048, description="MiB of the files that images are packed into")
    seed: int = Field(ge=0, lt=2**32, description="seed of the order in which training images are packed")
    skip_broken: bool = Field(description="leave out images that cannot be read; false refuses to pack, and names them")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command's config consists of."""

    help: str
    keys: type[Section]
    groups: Mapping[str, Group]
    selectors: tuple[str, ...] = ()  # groups whose options only set keys of other groups


DATA_GROUP = Group(by_name=DATA, own=OwnSource)
DEVICE_GROUP = Group(section=Device)

# All that describes a run.
RUN_GROUPS: Mapping[str, Group] = {
    "model": Group(by_name=MODELS, own=OwnBackbone),
    "head": Group(by_name=HEADS, own=OwnHead),
    "freeze": Group(by_name=FREEZE),
    "data": DATA_GROUP,
    "augment": Group(section=Augment),
    "loss": Group(by_name=LOSSES),
    "optimizer": Group(by_name=OPTIMIZERS, own=OwnOptimizer),
    "scheduler": Group(by_name=SCHEDULERS),
    "device": DEVICE_GROUP,
    "trainer": Group(section=TrainerSection),
    "callbacks": Group(section=Callbacks),
    "logger": Group(section=Loggers),
    "speed": Group(section=Speed),
    "cache": Group(section=Cache),
}

COMMANDS: dict[str, Command] = {
    "train": Command(
        help="Train a classifier and test it.",
        keys=TrainKeys,
        groups=RUN_GROUPS,
        selectors=("experiment",),
    ),
    "evaluate": Command(
        help="Evaluate a checkpoint on data.",
        keys=EvaluateKeys,
        groups={"device": DEVICE_GROUP, "data": DATA_GROUP},
    ),
    "predict": Command(
        help="Predict the classes of images in files.", keys=PredictKeys, groups={"device": DEVICE_GROUP}
    ),
    "plan": Command(
        help="Show which stage a run would train when, and what that saves; train nothing.",
        keys=PlanKeys,
        groups=RUN_GROUPS,
        selectors=("experiment",),
    ),
    "pack": Command(
        help="Pack images into a few large files, for data=streaming from a disk or a store.",
        keys=PackKeys,
        groups={"data": DATA_GROUP},
    ),
    "graph": Command(
        help="Draw the autograd graph of a run or a checkpoint, with its frost line.",
        keys=GraphKeys,
        groups=RUN_GROUPS,
        selectors=("experiment",),
    ),
    "gradients": Command(
        help="Measure what gradient reaches each stage of a run or a checkpoint.",
        keys=GradientsKeys,
        groups=RUN_GROUPS,
        selectors=("experiment",),
    ),
    "tour": Command(help="Explain autograd by statements that run, in the terminal.", keys=TourKeys, groups={}),
}
