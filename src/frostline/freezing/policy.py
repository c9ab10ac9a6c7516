"""The freezing policy: what trains in which phase of a run, as pure data.

A policy knows no network; `resolve` reads it against one. Each phase states the complete set that trains, not what
changes, so that it can be entered from anywhere: in order, or by a resume.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from torch import nn

from frostline.freezing.plain import as_float, as_int, as_names, as_text, check_keys
from frostline.freezing.resolved import ResolvedPolicy, resolve

BatchNormMode = Literal["frozen", "drift", "recalibrate", "affine", "train"]
DropoutMode = Literal["frozen", "active"]
MetricMode = Literal["min", "max"]


@dataclass(frozen=True, kw_only=True)
class Until:
    """How long a phase lasts, counted from its own start: exactly one of epochs, steps, fraction, metric.

    epochs: training epochs; the epoch in which the phase begins counts, so the phase ends with an epoch.
    steps: optimizer steps (not batches: accumulated batches make one step).
    fraction: share of the whole run's optimizer steps, 0 to 1.
    metric: name of a logged value; the phase ends when it has not improved by more than `min_delta` in `patience`
        evaluations in a row, and after `max_epochs` epochs in any case.
    """

    epochs: int | None = None
    steps: int | None = None
    fraction: float | None = None
    metric: str | None = None
    mode: MetricMode | None = None
    patience: int | None = None
    min_delta: float = 0.0
    max_epochs: int | None = None

    def __post_init__(self) -> None:
        given = [key for key in ("epochs", "steps", "fraction", "metric") if getattr(self, key) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none of them"
            raise ValueError(f"`until` takes exactly one of epochs, steps, fraction, metric; got {said}.")
        for key in ("epochs", "steps", "patience", "max_epochs"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"`until.{key}` must be at least 1; got {value}.")
        if self.fraction is not None and not 0.0 < self.fraction < 1.0:
            raise ValueError(f"`until.fraction` must lie between 0 and 1; got {self.fraction}.")
        beside = [key for key in ("mode", "patience", "max_epochs") if getattr(self, key) is not None]
        if self.metric is None and (beside or self.min_delta):
            raise ValueError(f"`until.{(beside or ['min_delta'])[0]}` says something only beside `until.metric`.")
        if self.metric is not None and (self.mode is None or self.patience is None or self.max_epochs is None):
            raise ValueError(
                f"`until.metric: {self.metric}` also needs `mode` (min or max), `patience` (evaluations) and "
                "`max_epochs`: a metric may improve for ever, and the next phase must come."
            )
        if self.mode is not None and self.mode not in get_args(MetricMode):
            raise ValueError(f"`until.mode` must be min or max; got {self.mode!r}.")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"`until.min_delta` must be finite and not negative; got {self.min_delta}.")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase: what trains, how long, and how fast.

    train: selectors (see `selectors.py`); the complete set, whatever trained before.
    until: None for the last phase, which lasts until the end of the run.
    lr: learning-rate factor by selector, for parameters that train here; a later entry wins; 1 where nothing is said.
    lr_decay: factor from each stage to the one before it, 1 for the last stage (the head); multiplies with `lr`.
    warmup_steps: optimizer steps over which the learning rate of what has just thawed rises linearly from 0.
    """

    name: str
    train: tuple[str, ...]
    until: Until | None = None
    lr: Mapping[str, float] = field(default_factory=dict)
    lr_decay: float | None = None
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError(f"Phase `{self.name}` trains nothing; name what trains, for instance train: [head].")
        for selector, factor in self.lr.items():
            if not 0 < factor < math.inf:
                raise ValueError(
                    f"Phase `{self.name}`: the factor for `{selector}` must be above 0 and finite; got {factor}. To "
                    f"keep it as it is, freeze it: train: [..., '!{selector}'] (at rate 0, batch statistics would "
                    "still move)."
                )
            if selector.startswith("!"):
                raise ValueError(f"Phase `{self.name}`: `lr` takes no `!`; a later entry wins over an earlier one.")
        if self.lr_decay is not None and not 0 < self.lr_decay <= 1:
            raise ValueError(f"Phase `{self.name}`: `lr_decay` must lie in (0, 1]; got {self.lr_decay}.")
        if self.warmup_steps < 0:
            raise ValueError(f"Phase `{self.name}`: `warmup_steps` must not be negative; got {self.warmup_steps}.")


@dataclass(frozen=True, kw_only=True)
class FreezePolicy:
    """Phases in order, and what the batch norm and dropout of frozen modules do.

    batch_norm, for every batch norm whose own parameters a phase does not train:
        frozen: normalises with its stored statistics, which do not move.
        drift: statistics follow the new data; scale and shift do not train.
        recalibrate: statistics estimated once on the new data (cumulative average over batches), then frozen.
        affine: scale and shift train; statistics do not move.
        train: scale and shift train, and statistics follow the data.
    dropout: frozen: off inside frozen modules (all of them are in eval mode); active: on.
    """

    phases: tuple[Phase, ...]
    batch_norm: BatchNormMode = "frozen"
    dropout: DropoutMode = "frozen"

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("A policy needs at least one phase.")
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"Two phases are called `{name}`; a phase is known by its name.")
        for phase in self.phases[:-1]:
            if phase.until is None:
                raise ValueError(
                    f"Phase `{phase.name}` has no `until`, so `{names[names.index(phase.name) + 1]}` would never begin."
                )
        shares = [phase.until.fraction for phase in self.phases[:-1] if phase.until and phase.until.fraction]
        if sum(shares) >= 1.0:
            raise ValueError(
                f"The phases before `{names[-1]}` take {sum(shares):g} of the run; nothing is left for it."
            )
        if self.phases[-1].until is not None:
            raise ValueError(
                f"Phase `{names[-1]}` is the last and lasts until the end of the run: leave out its `until`. "
                "How long a run is, the trainer says."
            )
        if self.batch_norm not in get_args(BatchNormMode):
            raise ValueError(
                f"`batch_norm` must be one of {', '.join(get_args(BatchNormMode))}; got {self.batch_norm}."
            )
        if self.dropout not in get_args(DropoutMode):
            raise ValueError(f"`dropout` must be one of {', '.join(get_args(DropoutMode))}; got {self.dropout}.")

    @classmethod
    def static(
        cls, *train: str, batch_norm: BatchNormMode = "frozen", dropout: DropoutMode = "frozen"
    ) -> "FreezePolicy":
        """One phase for the whole run: `FreezePolicy.static("layer4", "head")`."""
        return cls(phases=(Phase(name="static", train=train),), batch_norm=batch_norm, dropout=dropout)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "FreezePolicy":
        """A policy from plain values: `{"phases": [...]}`, or one phase's keys for a static policy, or `{"path": …}`.

        Raises:
            ValueError: a key nobody reads, or a value out of range; the message names the phase and the key.
            FileNotFoundError: the file that `path` names is not there.
        """
        if "path" in plain:
            from frostline.freezing.policy_file import read_policy

            check_keys(plain, ("path",), "A policy read from a file")
            return read_policy(as_text(plain["path"], "`path`"))
        region = ("batch_norm", "dropout")
        if "phases" in plain:
            check_keys(plain, ("phases", *region), "A policy of phases")
            entries = plain["phases"]
            if isinstance(entries, str) or not isinstance(entries, Sequence):
                raise ValueError(f"`phases` must be a list; got {entries!r}.")
            phases = tuple(_phase(entry, f"Phase {index}") for index, entry in enumerate(entries))
        else:
            static = ("train", "lr", "lr_decay", "warmup_steps")
            check_keys(plain, (*static, *region), "A policy of one phase")
            one = {key: plain[key] for key in static if key in plain}
            phases = (_phase({"name": "static", **one}, "The policy"),)
        chosen = {key: plain[key] for key in region if key in plain}
        return cls(phases=phases, **chosen)

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON types, complete and in one form: equal policies give equal dictionaries."""
        return {
            "batch_norm": self.batch_norm,
            "dropout": self.dropout,
            "phases": [
                {
                    "name": phase.name,
                    "train": list(phase.train),
                    "until": None if phase.until is None else _said(phase.until),
                    "lr": dict(phase.lr),
                    "lr_decay": phase.lr_decay,
                    "warmup_steps": phase.warmup_steps,
                }
                for phase in self.phases
            ],
        }

    def resolve(
        self,
        network: nn.Module,
        *,
        stages: Mapping[str, Sequence[str]] | None = None,
        must_train: Sequence[str] = (),
    ) -> ResolvedPolicy:
        """Read the policy against a network: for each phase the exact parameters that train; see `resolved.resolve`."""
        return resolve(self, network, stages=stages, must_train=must_train)


def _said(until: Until) -> dict[str, Any]:
    """Only what is given, so that the exported form reads as one would write it."""
    return {
        entry.name: getattr(until, entry.name)
        for entry in dataclasses.fields(until)
        if getattr(until, entry.name) not in (None, entry.default)
    }


def _phase(plain: object, where: str) -> Phase:
    keys = check_keys(plain, [entry.name for entry in dataclasses.fields(Phase)], where)
    name = as_text(keys.get("name"), f"{where}: `name`")
    where = f"Phase `{name}`" if name != "static" else where
    if "train" not in keys:
        raise ValueError(f"{where} does not say what trains: train: [head].")
    decay, factors = keys.get("lr_decay"), keys.get("lr") or {}
    if not isinstance(factors, Mapping):
        raise ValueError(f"{where}: `lr` maps stages or globs to factors, like {{layer4: 0.1}}; got {factors!r}.")
    return Phase(
        name=name,
        train=as_names(keys["train"], f"{where}: `train`"),
        until=None if keys.get("until") is None else _until(keys["until"], where),
        lr={str(key): as_float(value, f"{where}: `lr.{key}`") for key, value in factors.items()},
        lr_decay=None if decay is None else as_float(decay, f"{where}: `lr_decay`"),
        warmup_steps=as_int(keys.get("warmup_steps", 0), f"{where}: `warmup_steps`"),
    )


def _until(plain: object, where: str) -> Until:
    keys = check_keys(plain, [entry.name for entry in dataclasses.fields(Until)], f"{where}: `until`")
    read = {"metric": as_text, "mode": as_text, "fraction": as_float, "min_delta": as_float}
    given = {
        key: read.get(key, as_int)(value, f"{where}: `until.{key}`") for key, value in keys.items() if value is not None
    }
    try:
        return Until(**cast(dict[str, Any], given))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
