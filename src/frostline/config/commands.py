"""Each command's config: the keys at its top, and its groups."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from frostline.config.augment import Augment
from frostline.config.data import Source
from frostline.config.groups import GROUP, CommandConfig, RunGroups, Seed
from frostline.config.model import Model
from frostline.config.paths import CheckpointText, InputFile, InputPath, OutputFile, OutputFolder, ResumeText
from frostline.config.section import OwnClass
from frostline.config.training import Device, Precision
from frostline.export.format_names import FormatName
from frostline.prefix.engine_names import LoadedEngineName
from frostline.test_time_augmentation import DESCRIPTION as VIEWS_OF_EACH
from frostline.test_time_augmentation import TestTimeAugmentation

Count = Annotated[int, Field(ge=1)]
TRUST_CHECKPOINT = (
    "import the classes, contact the addresses and write the files that the checkpoint names: its author can run code"
)
CHECKPOINT = "path of a run folder, for its best.ckpt or else last.ckpt, or of a frostline checkpoint"
ENGINE = "what computes the frozen layers; auto: what computed them in training"


class TrainConfig(RunGroups):
    """Train a classifier and test it."""

    averaging: Literal["none", "ema"] = Field(
        default="none",
        description="`ema`: validate, test and store an exponential moving average of the weights over the optimizer "
        "steps n, each time min(0.999, (1 + n) / (10 + n)) of the average before",
    )
    fit: bool = Field(default=True, description="train; false only tests")
    test: bool = Field(default=True, description="evaluate the best checkpoint on the test images at the end")
    resume_from: ResumeText | None = Field(
        default=None,
        description="run folder or checkpoint of an interrupted run to go on from, by the config in it and the keys "
        "that are typed; with -m, an interrupted sweep's folder",
    )
    init_from: CheckpointText | None = Field(
        default=None,
        description="run folder or frostline checkpoint whose weights a new run starts from, under any policy; its "
        "classifier is kept where it has the same form",
    )
    on_policy_change: Literal["refuse", "restart"] = Field(
        default="refuse",
        description="what resume_from does with a checkpoint of another freezing policy: `restart` keeps its weights "
        "and begins the first phase",
    )
    trust_checkpoint: bool = Field(
        default=False,
        description="let resume_from import the classes, contact the addresses and write the files that its checkpoint "
        "names: its author can run code",
    )
    output_dir: OutputFolder = Field(default="runs", description="folder in which each run gets a folder of its own")


class EvaluationConfig(CommandConfig):
    """What the commands share that evaluate a checkpoint on data."""

    checkpoint: CheckpointText = Field(description=CHECKPOINT)
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    batch_size: Count | None = Field(default=None, description="images per batch; null: as in training")
    precision: Precision = Field(
        default="auto", description="number format; `auto` is that of the training, where the device has it"
    )
    engine: LoadedEngineName = Field(default="auto", description=ENGINE)
    device: Annotated[Device, GROUP]
    data: Annotated[Source | None, GROUP] = None


class EvaluateConfig(EvaluationConfig):
    """Evaluate a checkpoint on data."""

    split: Literal["train", "val", "test"] = Field(default="test", description="which images of the data")
    test_time_augmentation: TestTimeAugmentation = Field(default="none", description=VIEWS_OF_EACH)
    output: OutputFile | None = Field(default=None, description="JSON file for the results; null: the terminal only")
    pictures: OutputFolder | None = Field(
        default=None,
        description="folder for pictures: confusion matrix, most confident mistakes, calibration and, of a run folder, "
        "training curves; null: none",
    )


class CalibrateConfig(EvaluationConfig):
    """Calibrate a checkpoint's probabilities by a temperature, fitted on validation data and stored in it."""


class PredictConfig(CommandConfig):
    """Predict the classes of images in files."""

    checkpoint: CheckpointText = Field(description=CHECKPOINT)
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    inputs: InputPath | Annotated[list[InputPath], Field(min_length=1)] = Field(
        description="an image, a folder of images (with its subfolders), or a list of these"
    )
    output: OutputFile = Field(
        default="predictions.csv",
        description="CSV file for the predictions, in UTF-8; a file that is there is replaced. A name that a "
        "spreadsheet would take for a formula begins with `'`; a byte of a name that is not UTF-8 is written `\\xNN`",
    )
    top_k: Count = Field(default=5, description="classes written per image, most probable first")
    batch_size: Count = Field(default=32, description="images per batch")
    test_time_augmentation: TestTimeAugmentation = Field(default="none", description=VIEWS_OF_EACH)
    engine: LoadedEngineName = Field(default="auto", description=ENGINE)
    device: Annotated[Device, GROUP]


class ExplainConfig(CommandConfig):
    """Show where in images a convolutional checkpoint finds a class (Grad-CAM)."""

    checkpoint: CheckpointText = Field(description=CHECKPOINT)
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    inputs: InputPath | Annotated[list[InputPath], Field(min_length=1)] = Field(
        description="an image, a folder of images (with its subfolders), or a list of these"
    )
    of_class: Annotated[str, Field(min_length=1)] | int | None = Field(
        default=None, description="name of the class to look for; null: each image's most probable one"
    )
    output: OutputFolder = Field(default="explanations", description="folder for a picture of each image")
    device: Annotated[Device, GROUP]


class ExportConfig(CommandConfig):
    """Write a checkpoint's network for other programs, with its preparation of images and its model card."""

    checkpoint: CheckpointText = Field(description=CHECKPOINT)
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    format: FormatName = Field(
        default="onnx",
        description="format of the file: all but safetensors, which has the weights alone, hold the normalisation",
    )
    output: OutputFolder | None = Field(
        default=None,
        description="folder for the files, which must not be there yet, or be empty; null: `export/FORMAT` in the run "
        "folder, or beside a checkpoint without one",
    )
    inputs: InputPath | Annotated[list[InputPath], Field(min_length=1)] | None = Field(
        default=None,
        description="images on which the exported network is compared with the original: a file, a folder, or a list "
        "of these; null: images of the data that it was trained on",
    )


class PlanConfig(RunGroups):
    """Show which stage a run would train when, and what that saves; train nothing."""

    output: OutputFile | None = Field(
        default=None, description="picture of the phases (.svg, .png or .pdf); null: none"
    )
    export: OutputFile | None = Field(
        default=None,
        description="YAML file for the policy, to be edited and given back as freeze=file freeze.path=…; null: none",
    )


class LrFindConfig(RunGroups):
    """Find a learning rate for a run by a short training, of which nothing is kept."""

    seed: Seed = Field(default=0, description="seed of weights, order and augmentation")
    phase: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="name of the policy's phase to train in; null: the one that trains most"
    )
    min_lr: float = Field(default=1e-6, gt=0, description="learning rate of the first step")
    max_lr: float = Field(
        default=10.0, gt=0, description="learning rate of the last step, if the loss has not diverged"
    )
    steps: Annotated[int, Field(ge=40)] = Field(default=100, description="optimizer steps from min_lr to max_lr")
    output: OutputFile | None = Field(
        default="lr_find.svg",
        description="picture of the loss over the learning rate (.svg, .png or .pdf); null: none",
    )


class ShowConfig(CommandConfig):
    """Draw training images after augmentation, as the network will see them; train nothing."""

    seed: Seed = Field(default=0, description="seed of order and augmentation")
    output: OutputFile = Field(
        default="seen.png",
        description="picture (.png or .svg); beside it, as .json, the complete report on the data; files that are "
        "there are replaced",
    )
    model: Annotated[Model, GROUP]
    data: Annotated[Source, GROUP]
    augment: Annotated[Augment, GROUP]


class PackConfig(CommandConfig):
    """Pack images into a few large files, for data=streaming from a disk or a store."""

    output: OutputFolder = Field(description="the folder of shards; it must not be there yet, or be empty")
    chunk_size: float = Field(default=64.0, gt=0, le=2048, description="MiB of the files that images are written into")
    seed: Seed = Field(default=0, description="seed of the order in which training images are written")
    skip_broken: bool = Field(
        default=False, description="leave out images that cannot be read; false writes nothing, and names them"
    )
    data: Annotated[Source, GROUP]


class PhaseConfig(RunGroups):
    """What the commands share that show the autograd graph or the gradients of one phase."""

    checkpoint: CheckpointText | None = Field(
        default=None,
        description="run folder or frostline checkpoint whose network, data and policy are taken instead of those of "
        "this config",
    )
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    phase: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="name of the policy's phase; null: the first, or the one in which the checkpoint was written",
    )


class GraphConfig(PhaseConfig):
    """Draw the autograd graph of a run or a checkpoint, with its frost line."""

    views: Annotated[list[Literal["stages", "operations"]], Field(min_length=1)] = Field(
        default=["stages", "operations"],
        description="the pictures: `stages` has a block for each, `operations` every node of the graph",
    )
    formats: Annotated[list[Literal["svg", "dot", "png"]], Field(min_length=1)] = Field(
        default=["svg"], description="the files of each picture; dot is for Graphviz"
    )
    output: OutputFolder = Field(default="graph", description="folder for the files")


class GradientsConfig(PhaseConfig):
    """Measure what gradient reaches each stage of a run or a checkpoint."""

    batches: Count = Field(
        default=8, description="training batches over which the gradient is averaged; the noise needs two"
    )
    output: OutputFolder | None = Field(
        default=None,
        description="folder for gradients.csv, gradients.png and gradients.svg; null: the terminal only",
    )


class TourConfig(CommandConfig):
    """Explain autograd by statements that run, in the terminal."""

    weights: InputFile | None = Field(
        default=None,
        description="state dict of a ResNet-18 with 1,000 classes; null: ImageNet's if torchvision has them in its "
        "cache, else random ones",
    )
    width: Annotated[int, Field(ge=60)] | None = Field(
        default=None, description="columns to write in; null: the terminal's"
    )


COMMANDS: dict[str, type[CommandConfig]] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "calibrate": CalibrateConfig,
    "predict": PredictConfig,
    "explain": ExplainConfig,
    "plan": PlanConfig,
    "lr_find": LrFindConfig,
    "export": ExportConfig,
    "show": ShowConfig,
    "pack": PackConfig,
    "graph": GraphConfig,
    "gradients": GradientsConfig,
    "tour": TourConfig,
}


def stored_settings(kind: type[CommandConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a checkpoint, without keys that another version or another command has."""
    groups, kept = kind.groups(), {key: value for key, value in settings.items() if key in kind.model_fields}
    for name, node in kept.items():
        schema = groups[name].schema_of(node) if name in groups and isinstance(node, Mapping) else None
        if schema is not None and not issubclass(schema, OwnClass):
            kept[name] = {key: value for key, value in node.items() if key in schema.model_fields}
    return kept
