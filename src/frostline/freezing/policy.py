"""The freezing policy: what trains in which phase of a run, as data.

A policy knows no network; `resolve` reads it against one. Each phase states the complete set that trains, not what
changes, so that it can be entered from anywhere: in order, or by a resume. All validation is in the constructors.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from torch import nn

from frostline.freezing.resolved import ResolvedPolicy, resolve
from frostline.nearest import suggest
from frostline.renamed import OPTIONS
from frostline.storage.yaml_file import read_mapping

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
            found = " and ".join(given) or "none of them"
            raise ValueError(f"`until` takes exactly one of epochs, steps, fraction, metric; got {found}.")
        for key in ("epochs", "steps", "patience", "max_epochs"):
            if getattr(self, key) is not None:
                _check_whole(getattr(self, key), f"`until.{key}`", at_least=1)
        if self.fraction is not None and not 0.0 < _number(self.fraction, "`until.fraction`") < 1.0:
            raise ValueError(f"`until.fraction` must lie between 0 and 1; got {self.fraction}.")
        if not 0 <= _number(self.min_delta, "`until.min_delta`") < math.inf:
            raise ValueError(f"`until.min_delta` must be finite and not negative; got {self.min_delta}.")
        beside = [key for key in ("mode", "patience", "max_epochs") if getattr(self, key) is not None]
        if self.metric is None:
            if beside or self.min_delta:
                raise ValueError(f"`until.{(beside or ['min_delta'])[0]}` requires `until.metric`.")
            return
        _check_name(self.metric, "`until.metric`")
        if self.mode is None or self.patience is None or self.max_epochs is None:
            raise ValueError(
                f"`until.metric: {self.metric}` also needs `mode` (min or max), `patience` (evaluations) and "
                "`max_epochs`: a metric may improve for ever, and the next phase must come."
            )
        if self.mode not in get_args(MetricMode):
            raise ValueError(f"`until.mode` must be min or max; got {self.mode!r}.")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase: what trains, how long, and how fast.

    train: selectors (see `selectors.py`); the complete set, whatever trained before.
    until: None for the last phase, which lasts until the end of the run.
    lr: learning-rate factor by selector, for parameters that train here; a later entry wins; 1 for all others.
    lr_decay: factor from each stage to the one before it, 1 for the last stage (the head); multiplies with `lr`.
    warmup_steps: optimizer steps over which the learning rate of newly unfrozen parameters rises linearly from 0.
    """

    name: str
    train: tuple[str, ...]
    until: Until | None = None
    lr: Mapping[str, float] = field(default_factory=dict)
    lr_decay: float | None = None
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_name(self.name, "`name` of a phase")
        where = f"Phase `{self.name}`"
        _check_list(self.train, f"{where}: `train`", example=", like [layer4, head]")
        for selector in self.train:
            _check_name(selector, f"{where}: each entry of `train`")
        if not self.train:
            raise ValueError(f"{where} trains nothing; name what trains, for instance train: [head].")
        if not isinstance(self.lr, Mapping):
            raise ValueError(f"{where}: `lr` maps stages or globs to factors, like {{layer4: 0.1}}; got {self.lr!r}.")
        for selector, factor in self.lr.items():
            if not 0 < _number(factor, f"{where}: `lr.{selector}`") < math.inf:
                raise ValueError(
                    f"{where}: the factor for `{selector}` must be above 0 and finite; got {factor}. To keep it as it "
                    f"is, freeze it: train: [..., '!{selector}'] (at rate 0, batch statistics would still change)."
                )
            if str(selector).startswith("!"):
                raise ValueError(f"{where}: `lr` takes no `!`; a later entry wins over an earlier one.")
        if self.lr_decay is not None and not 0 < _number(self.lr_decay, f"{where}: `lr_decay`") <= 1:
            raise ValueError(f"{where}: `lr_decay` must lie in (0, 1]; got {self.lr_decay}.")
        _check_whole(self.warmup_steps, f"{where}: `warmup_steps`", at_least=0)
        # One form for values from code and from a file, so that equal policies compare equal.
        object.__setattr__(self, "train", tuple(self.train))
        object.__setattr__(self, "lr", {str(selector): float(factor) for selector, factor in self.lr.items()})


@dataclass(frozen=True, kw_only=True)
class FreezePolicy:
    """Phases in order, and what the batch norm and dropout of frozen modules do.

    batch_norm, for every batch norm whose own parameters a phase does not train:
        frozen: normalises with its stored statistics, which do not change.
        drift: statistics follow the new data; scale and shift do not train.
        recalibrate: statistics estimated once on the new data (cumulative average over batches), then frozen.
        affine: scale and shift train; statistics do not change.
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
                raise ValueError(f"Two phases are called `{name}`; the name of a phase must be unique.")
        for phase, following in zip(self.phases[:-1], names[1:], strict=True):
            if phase.until is None:
                raise ValueError(f"Phase `{phase.name}` has no `until`, so `{following}` would never begin.")
        shares = [phase.until.fraction for phase in self.phases[:-1] if phase.until and phase.until.fraction]
        if sum(shares) >= 1.0:
            raise ValueError(
                f"The phases before `{names[-1]}` take {sum(shares):g} of the run; nothing is left for it."
            )
        if self.phases[-1].until is not None:
            raise ValueError(
                f"Phase `{names[-1]}` is the last and lasts until the end of the run: leave out its `until`. "
                "The trainer decides how long a run is."
            )
        for key, modes in (("batch_norm", get_args(BatchNormMode)), ("dropout", get_args(DropoutMode))):
            if getattr(self, key) not in modes:
                raise ValueError(f"`{key}` must be one of {', '.join(modes)}; got {getattr(self, key)}.")

    @classmethod
    def static(
        cls, *train: str, batch_norm: BatchNormMode = "frozen", dropout: DropoutMode = "frozen"
    ) -> "FreezePolicy":
        """One phase for the whole run: `FreezePolicy.static("layer4", "head")`."""
        return cls(phases=(Phase(name="static", train=train),), batch_norm=batch_norm, dropout=dropout)

    @classmethod
    def preset(cls, name: str) -> "FreezePolicy":
        """The policy of the command line's `freeze=<name>`, with its default values: `FreezePolicy.preset("backbone")`.

        Raises:
            ValueError: there is no such preset; the message lists them.
        """
        folder = resources.files("frostline.conf") / "freeze"
        names = sorted({Path(file.name).stem for file in folder.iterdir()} - {"file"})  # a policy file of the user's
        if name not in names:
            now = OPTIONS["freeze"].get(name)
            hint = f" `{name}` is now called `{now}`." if now else suggest(name, names)
            raise ValueError(f"There is no preset `{name}`; there are {', '.join(names)}.{hint}")
        plain = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        return cls.from_dict({key: value for key, value in plain.items() if key != "name"})

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "FreezePolicy":
        """A policy from plain values: `{"phases": [...]}`, or one phase's keys for a static policy, or `{"path": …}`.

        Raises:
            ValueError: an unknown key, or a value out of range; the message names the phase and the key.
            FileNotFoundError: the file that `path` names does not exist.
        """
        region = ("batch_norm", "dropout")
        if "path" in plain:
            _check_keys(plain, ("path",), "A policy read from a file")
            _check_name(plain["path"], "`path`")
            return read_policy(plain["path"])
        if "phases" in plain:
            _check_keys(plain, ("phases", *region), "A policy of phases")
            _check_list(plain["phases"], "`phases`")
            phases = tuple(_phase(entry, f"Phase {index}") for index, entry in enumerate(plain["phases"]))
        else:
            _check_keys(plain, ("train", "lr", "lr_decay", "warmup_steps", *region), "A policy of one phase")
            phase = {key: value for key, value in plain.items() if key not in region}
            phases = (_phase({"name": "static", **phase}, "The policy"),)
        return cls(phases=phases, **{key: plain[key] for key in region if key in plain})

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON types, complete and in one form: equal policies give equal dictionaries."""
        return {
            "batch_norm": self.batch_norm,
            "dropout": self.dropout,
            "phases": [
                {**dataclasses.asdict(phase), "train": list(phase.train), "until": _given(phase.until)}
                for phase in self.phases
            ],
        }

    def resolve(
        self,
        network: nn.Module,
        *,
        stages: Mapping[str, Sequence[str]] | None = None,
        always_trainable: Sequence[str] = (),
    ) -> ResolvedPolicy:
        """Read the policy against a network: for each phase the exact parameters that train; see `resolved.resolve`."""
        return resolve(self, network, stages=stages, always_trainable=always_trainable)


def read_policy(path: str | Path) -> FreezePolicy:
    """The policy in a YAML (or JSON) file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or no policy; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no policy file `{path.absolute()}`.")
    plain = read_mapping(path)
    if not plain or "path" in plain:
        raise ValueError(f"`{path}` holds no policy; it should have `phases: [...]` or `train: [...]`.")
    try:
        return FreezePolicy.from_dict(plain)
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from None


def write_policy(policy: FreezePolicy, path: str | Path) -> None:
    """Write a policy as YAML from which `read_policy` makes an equal one."""
    with Path(path).open("w", encoding="utf-8") as file:
        yaml.safe_dump(policy.to_dict(), file, sort_keys=False, default_flow_style=None, width=110)


def _given(until: Until | None) -> dict[str, Any] | None:
    """Only the values that are given, so that the exported form reads as a person would write it."""
    return None if until is None else {key: value for key, value in dataclasses.asdict(until).items() if value}


def _phase(plain: object, where: str) -> Phase:
    given = _check_keys(plain, [entry.name for entry in dataclasses.fields(Phase)], where)
    _check_name(given.get("name"), f"{where}: `name`")
    if given["name"] != "static":
        where = f"Phase `{given['name']}`"
    if "train" not in given:
        raise ValueError(f"{where} has no `train`; name what trains, for instance train: [head].")
    if given.get("until") is not None:
        until = _check_keys(given["until"], [entry.name for entry in dataclasses.fields(Until)], f"{where}: `until`")
        try:
            given["until"] = Until(**{key: value for key, value in until.items() if value is not None})
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return Phase(**{key: value for key, value in given.items() if not (key == "lr" and value is None)})


def _check_keys(plain: object, allowed: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(plain, Mapping):
        raise ValueError(f"{where} must be a mapping with the keys {', '.join(allowed)}; got {plain!r}.")
    for key in plain:
        if key not in allowed:
            raise ValueError(f"{where} has no key `{key}`; it has {', '.join(allowed)}.{suggest(str(key), allowed)}")
    return dict(plain)


def _check_list(value: object, where: str, *, example: str = "") -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):  # a string would be read letter by letter
        raise ValueError(f"{where} must be a list{example}; got {value!r}.")


def _check_name(value: object, where: str) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} must be a name; got {value!r}.")


def _check_whole(value: object, where: str, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where} must be a whole number; got {value!r}.")
    if value < at_least:
        raise ValueError(f"{where} must be at least {at_least}; got {value}.")


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} must be a number; got {value!r}.")
    return value
