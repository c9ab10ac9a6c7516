"""The group `freeze`: what trains in which phase."""

from typing import Annotated, Literal

from pydantic import Field

from frostline.config.paths import PathText
from frostline.config.section import Section

Factor = Annotated[float, Field(gt=0)]
Positive = Annotated[int, Field(ge=1)]
Selectors = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]

BatchNormMode = Literal["frozen", "drift", "recalibrate", "affine", "train"]

TRAIN = (
    "what trains: stages (stem, layer1 … head), all, from:<stage>, module or parameter names, globs on parameter "
    "names, @<module class>, and !<any of these> to take away again; the later word wins"
)
LR = "learning-rate factor by stage, module or glob; 1 for the others"
LR_DECAY = "learning-rate factor from each stage to the one before it, the head at 1; null: none"
WARMUP = "optimizer steps over which the learning rate of newly unfrozen layers rises from 0"


class Region(Section):
    """What the frozen part of the network does."""

    batch_norm: BatchNormMode = Field(
        default="frozen",
        description="batch norm of the frozen part: `frozen` keeps statistics, scale and shift; `drift` lets the "
        "statistics follow the data; `recalibrate` estimates them once on the training images and keeps them; "
        "`affine` trains scale and shift; `train` does both",
    )
    dropout: Literal["frozen", "active"] = Field(
        default="frozen", description="dropout of the frozen part: `frozen` turns it off"
    )


class Trained(Section):
    """What trains, and at which rates."""

    train: Selectors = Field(description=TRAIN)
    lr: dict[str, Factor] = Field(default_factory=dict, description=LR)
    lr_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, description=LR_DECAY)
    warmup_steps: int = Field(default=0, ge=0, description=WARMUP)


class StaticPolicy(Trained, Region):
    """One phase for the whole run."""

    name: Literal[
        "none",
        "backbone",
        "stem",
        "to_layer1",
        "to_layer2",
        "to_layer3",
        "all_but_batch_norm",
        "all_but_bias",
        "discriminative",
        "surgical",
        "custom",
    ] = Field(description="the policy's name")


class UntilSection(Section):
    """How long a phase lasts: exactly one of epochs, steps, fraction, metric."""

    epochs: Positive | None = Field(default=None, description="epochs, counted from the phase's start")
    steps: Positive | None = Field(default=None, description="optimizer steps, counted from the phase's start")
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, description="share of the whole run")
    metric: str | None = Field(default=None, description="logged value that has to stop improving, such as val/loss")
    mode: Literal["min", "max"] | None = Field(default=None, description="whether a lower or a higher value is better")
    patience: Positive | None = Field(default=None, description="evaluations in a row without improvement")
    min_delta: float = Field(default=0.0, ge=0, description="smallest change that counts as an improvement")
    max_epochs: Positive | None = Field(default=None, description="epochs after which the phase ends in any case")


class PhaseSection(Trained):
    """One phase of a run."""

    name: str = Field(min_length=1, description="the phase's name, in logs and tables")
    until: UntilSection | None = Field(default=None, description="when the next phase begins; left out in the last one")


class PhasedPolicy(Region):
    """Several phases, one after the other."""

    name: Literal["gradual_unfreezing", "unfreeze_on_plateau"] = Field(description="the policy's name")
    phases: list[PhaseSection] = Field(min_length=1, description="the phases in order; each says all that trains in it")


class PolicyFile(Section):
    """A policy read from a YAML file."""

    name: Literal["file"] = Field(description="the policy's name")
    path: PathText = Field(description="YAML file with `phases` (or `train`), `batch_norm` and `dropout`")


Freeze = StaticPolicy | PhasedPolicy | PolicyFile
