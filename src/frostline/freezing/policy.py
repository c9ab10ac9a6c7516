"""The freezing policy: what trains in which phase of a run, as data.

A policy knows no network; `resolve` reads it against one. Each phase states the complete set that trains, not what
changes, so that it can be entered from anywhere: in order, or by a resume. All validation is in the constructors: type,
limits and help of a key stand beside it, and `config/freeze.py` reads them there. Nothing here imports torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from frostline.freezing.keys import check_fields, check_names, check_value, key, keys_of
from frostline.nearest import suggest
from frostline.renamed import OPTIONS
from frostline.storage.yaml_file import read_mapping

if TYPE_CHECKING:
    from torch import nn

    from frostline.freezing.resolved import ResolvedPolicy

BatchNormMode = Literal["frozen", "drift", "recalibrate", "affine", "train"]
DropoutMode = Literal["frozen", "active"]
MetricMode = Literal["min", "max"]


@dataclass(frozen=True, kw_only=True)
class Until:
    """How long a phase lasts, counted from its own start: exactly one of epochs, steps, fraction, metric.

    With `metric`, the phase ends when the value has not improved by more than `min_delta` in `patience` evaluations in
    a row, and after `max_epochs` epochs in any case.
    """

    epochs: Annotated[int | None, key("epochs, counted from the phase's start; it ends with an epoch", ge=1)] = None
    steps: Annotated[int | None, key("optimizer steps, counted from the phase's start", ge=1)] = None
    fraction: Annotated[float | None, key("share of the whole run", gt=0, lt=1)] = None
    metric: Annotated[str | None, key("logged value that has to stop improving, such as val/loss")] = None
    mode: Annotated[MetricMode | None, key("whether a lower or a higher value is better")] = None
    patience: Annotated[int | None, key("evaluations in a row without improvement", ge=1)] = None
    min_delta: Annotated[float, key("smallest change that counts as an improvement", ge=0)] = 0.0
    max_epochs: Annotated[int | None, key("epochs after which the phase ends in any case", ge=1)] = None

    def __post_init__(self) -> None:
        given = [name for name in ("epochs", "steps", "fraction", "metric") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"`until` takes exactly one of epochs, steps, fraction, metric; got {found}.")
        check_fields(self, "`until.")
        if self.metric is None:
            if beside := [name for name in ("mode", "patience", "max_epochs", "min_delta") if getattr(self, name)]:
                raise ValueError(f"`until.{beside[0]}` requires `until.metric`.")
        elif self.mode is None or self.patience is None or self.max_epochs is None:
            raise ValueError(
                f"`until.metric: {self.metric}` also needs `mode` (min or max), `patience` (evaluations) and "
                "`max_epochs`: a metric may improve for ever, and the next phase must come."
            )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase: what trains (the complete set, whatever trained before), how long, and how fast."""

    name: Annotated[str, key("the phase's name, in logs and tables")]
    train: Annotated[
        tuple[str, ...],
        key(
            "what trains: stages (stem, layer1 … head), all, from:<stage>, module or parameter names, globs on "
            "parameter names, @<module class>, and !<any of these> to take away again; the later word wins"
        ),
    ]
    until: Annotated[Until | None, key("when the next phase begins; left out in the last one")] = None
    lr: Annotated[
        Mapping[str, float],
        key("learning-rate factor by stage, module or glob; 1 for the others; instead of 0, freeze: !<stage>", gt=0),
    ] = field(default_factory=dict)
    lr_decay: Annotated[
        float | None,
        key("learning-rate factor from each stage to the one before it, the head at 1; null: none", gt=0, le=1),
    ] = None
    warmup_steps: Annotated[
        int, key("optimizer steps over which the learning rate of newly unfrozen layers rises from 0", ge=0)
    ] = 0

    def __post_init__(self) -> None:
        check_value(self.name, str, "`name` of a phase")
        where = f"Phase `{self.name}`: "
        check_fields(self, f"{where}`")
        if not self.train:
            raise ValueError(f"{where}`train` trains nothing; name what trains, for instance train: [head].")
        for selector in self.lr:
            if str(selector).startswith("!"):
                raise ValueError(f"{where}`lr` takes no `!`; a later entry wins over an earlier one.")
        # One form for values from code and from a file, so that equal policies compare equal.
        object.__setattr__(self, "train", tuple(self.train))
        object.__setattr__(self, "lr", {str(selector): float(factor) for selector, factor in self.lr.items()})


@dataclass(frozen=True, kw_only=True)
class FreezePolicy:
    """Phases in order, and what batch norm and dropout of frozen modules do.

    `batch_norm` applies to every batch norm whose own parameters a phase does not train. With `dropout="frozen"`, all
    frozen modules are in eval mode.
    """

    phases: Annotated[tuple[Phase, ...], key("the phases in order; each says all that trains in it")]
    batch_norm: Annotated[
        BatchNormMode,
        key(
            "batch norm of the frozen part: `frozen` keeps statistics, scale and shift; `drift` lets the statistics "
            "follow the data; `recalibrate` estimates them once on the training images and keeps them; `affine` trains "
            "scale and shift; `train` does both"
        ),
    ] = "frozen"
    dropout: Annotated[DropoutMode, key("dropout of the frozen part: `frozen` turns it off")] = "frozen"

    def __post_init__(self) -> None:
        check_fields(self, "`")
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
        # `file` is the user's own, `auto` depends on data and weights.
        names = sorted({Path(file.name).stem for file in folder.iterdir()} - {"file", "auto"})
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
        modes = ("batch_norm", "dropout")
        if "path" in plain:
            check_names(plain, ("path",), "A policy read from a file")
            check_value(plain["path"], str, "`path`")
            return read_policy(plain["path"])
        if "phases" in plain:
            check_names(plain, ("phases", *modes), "A policy of phases")
            check_value(plain["phases"], tuple[object, ...], "`phases`")
            phases = tuple(_phase(entry, f"Phase {index}") for index, entry in enumerate(plain["phases"]))
        else:
            check_names(plain, ("train", "lr", "lr_decay", "warmup_steps", *modes), "A policy of one phase")
            phase = {key: value for key, value in plain.items() if key not in modes}
            phases = (_phase({"name": "static", **phase}, "The policy"),)
        return cls(phases=phases, **{key: plain[key] for key in modes if key in plain})

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
        network: "nn.Module",
        *,
        stages: Mapping[str, Sequence[str]] | None = None,
        always_trainable: Sequence[str] = (),
    ) -> "ResolvedPolicy":
        """Read the policy against a network: for each phase the exact parameters that train; see `resolved.resolve`."""
        from frostline.freezing.resolved import resolve

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
    given = check_names(plain, [*keys_of(Phase)], where)
    check_value(given.get("name"), str, f"{where}: `name`")
    if given["name"] != "static":
        where = f"Phase `{given['name']}`"
    if "train" not in given:
        raise ValueError(f"{where} has no `train`; name what trains, for instance train: [head].")
    if given.get("until") is not None:
        until = check_names(given["until"], [*keys_of(Until)], f"{where}: `until`")
        try:
            given["until"] = Until(**{key: value for key, value in until.items() if value is not None})
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return Phase(**{key: value for key, value in given.items() if not (key == "lr" and value is None)})
