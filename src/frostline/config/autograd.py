"""Keys of the commands that show the gradients: `tour`, `graph`, `gradients`."""

from typing import Annotated, Literal

from pydantic import Field

from frostline.config.paths import PathText
from frostline.config.section import FOLDER, Section

SEED = "seed of weights, order and augmentation"
CHECKPOINT = "frostline checkpoint whose network, data and policy are taken instead of those of this config"
TRUST_CHECKPOINT = (
    "import the classes, contact the addresses and write the files that the checkpoint names: its author can run code"
)
PHASE = "name of the policy's phase; null: the first, or the one in which the checkpoint was written"


class TourKeys(Section):
    """Keys of the tour."""

    weights: PathText | None = Field(
        default=None,
        description="state dict of a ResNet-18 with 1,000 classes; null: ImageNet's if torchvision has them in its "
        "cache, else random ones",
    )
    width: Annotated[int, Field(ge=60)] | None = Field(
        default=None, description="columns to write in; null: the terminal's"
    )


class GraphKeys(Section):
    """Keys of the drawing of the autograd graph, outside the groups."""

    seed: int = Field(default=0, ge=0, lt=2**32, description=SEED)
    checkpoint: PathText | None = Field(default=None, description=CHECKPOINT)
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    phase: Annotated[str, Field(min_length=1)] | None = Field(default=None, description=PHASE)
    views: Annotated[list[Literal["stages", "operations"]], Field(min_length=1)] = Field(
        default=["stages", "operations"],
        description="the pictures: `stages` has a block for each, `operations` every node of the graph",
    )
    formats: Annotated[list[Literal["svg", "html", "dot", "png"]], Field(min_length=1)] = Field(
        default=["svg", "html"], description="the files of each picture; dot is for Graphviz"
    )
    output: PathText = Field(default="graph", json_schema_extra=FOLDER, description="folder for the files")


class GradientsKeys(Section):
    """Keys of the measurement of the gradients, outside the groups."""

    seed: int = Field(default=0, ge=0, lt=2**32, description=SEED)
    checkpoint: PathText | None = Field(default=None, description=CHECKPOINT)
    trust_checkpoint: bool = Field(default=False, description=TRUST_CHECKPOINT)
    phase: Annotated[str, Field(min_length=1)] | None = Field(default=None, description=PHASE)
    batches: int = Field(
        default=8, ge=1, description="training batches over which the gradient is averaged; the noise needs two"
    )
    output: PathText | None = Field(
        default=None,
        json_schema_extra=FOLDER,
        description="folder for gradients.csv, gradients.png and gradients.svg; null: the terminal only",
    )
