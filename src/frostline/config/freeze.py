"""The group `freeze`: what trains in which phase. Defaults, limits, help and rules are from `freezing/policy.py`."""

import dataclasses
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from frostline.config.paths import InputFile
from frostline.config.recommended import Auto
from frostline.config.section import Section
from frostline.freezing.keys import keys_of
from frostline.freezing.policy import BatchNormMode, DropoutMode, FreezePolicy, MetricMode, Phase, Until

LR = keys_of(Phase)["lr"][1]
Selectors = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


def _key(kind: Any, name: str) -> Any:
    """Default, help and limits of a policy's key."""
    [field] = [field for field in dataclasses.fields(kind) if field.name == name]
    default = ... if field.default is dataclasses.MISSING else field.default
    return Field(default=default, **keys_of(kind)[name][1])


class PolicySection(Section):
    """A freezing policy, however it is given."""

    def policy(self) -> FreezePolicy:
        """The policy itself."""
        return FreezePolicy.from_dict({key: value for key, value in self.as_dict().items() if key != "name"})


class Modes(PolicySection):
    """What the frozen part of the network does."""

    batch_norm: BatchNormMode = _key(FreezePolicy, "batch_norm")
    dropout: DropoutMode = _key(FreezePolicy, "dropout")

    @model_validator(mode="after")
    def _is_a_policy(self) -> Self:
        self.policy()
        return self


class Trained(Section):
    """What trains, and at which rates."""

    train: Selectors = _key(Phase, "train")
    lr: dict[str, Annotated[float, Field(gt=LR["gt"])]] = Field(default_factory=dict, description=LR["description"])
    lr_decay: float | None = _key(Phase, "lr_decay")
    warmup_steps: int = _key(Phase, "warmup_steps")


class StaticPolicy(Trained, Modes):
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


class RecommendedPolicy(PolicySection):
    """A static policy for the number of images and the weights: see `frostline.config.recommended`."""

    name: Auto = Field(description="the policy's name")
    batch_norm: BatchNormMode = _key(FreezePolicy, "batch_norm")
    dropout: DropoutMode = _key(FreezePolicy, "dropout")


class UntilSection(Section):
    """How long a phase lasts: exactly one of epochs, steps, fraction, metric."""

    epochs: int | None = _key(Until, "epochs")
    steps: int | None = _key(Until, "steps")
    fraction: float | None = _key(Until, "fraction")
    metric: str | None = _key(Until, "metric")
    mode: MetricMode | None = _key(Until, "mode")
    patience: int | None = _key(Until, "patience")
    min_delta: float = _key(Until, "min_delta")
    max_epochs: int | None = _key(Until, "max_epochs")

    @model_validator(mode="after")
    def _is_an_end(self) -> Self:
        Until(**self.as_dict())
        return self


class PhaseSection(Trained):
    """One phase of a run."""

    name: str = _key(Phase, "name")
    until: UntilSection | None = _key(Phase, "until")


class PhasedPolicy(Modes):
    """Several phases, one after the other."""

    name: Literal["gradual_unfreezing", "unfreeze_on_plateau"] = Field(description="the policy's name")
    phases: Annotated[list[PhaseSection], Field(min_length=1)] = _key(FreezePolicy, "phases")


class PolicyFile(PolicySection):
    """A policy read from a YAML file."""

    name: Literal["file"] = Field(description="the policy's name")
    path: InputFile = Field(description="YAML file with `phases` (or `train`), `batch_norm` and `dropout`")


Freeze = RecommendedPolicy | StaticPolicy | PhasedPolicy | PolicyFile
