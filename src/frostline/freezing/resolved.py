"""A policy read against a network: for each phase the exact names of what trains and of what is held in eval mode.

Names only, never module references: converting to SyncBatchNorm makes new modules under the old names.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from frostline.freezing.selectors import match, select
from frostline.freezing.stages import bare, in_stage, stage_of, stages_of

if TYPE_CHECKING:
    from frostline.freezing.policy import FreezePolicy, Phase


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm of any kind, or an instance norm that keeps running statistics as one does."""
    # _BatchNorm is the name under which torch groups all dimensions, SyncBatchNorm and the lazy ones.
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True
    return isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.running_mean is not None


@dataclass(frozen=True, kw_only=True)
class ResolvedPhase:
    """One phase on one network.

    trainable: names of the parameters that train, each under its first name.
    held: names of the modules kept in eval mode, however often somebody calls `train()`.
    frozen_batch_norms: names of the batch norms in the frozen region, to which the policy's `batch_norm` applies.
    lr: learning-rate factor of each trainable parameter.
    added: parameters that train because the caller said they must, not because the phase names them.
    """

    index: int
    phase: "Phase"
    batch_norm: str
    trainable: frozenset[str]
    held: frozenset[str]
    frozen_batch_norms: frozenset[str]
    lr: Mapping[str, float]
    added: frozenset[str]

    @property
    def name(self) -> str:
        return self.phase.name


@dataclass(frozen=True, kw_only=True)
class ResolvedPolicy:
    """All phases on one network.

    stages: stage name -> module names, in execution order.
    never_trained: parameters that train in no phase.
    notes: what a user should be told: parameters added, shared, never trained.
    """

    policy: "FreezePolicy"
    stages: Mapping[str, tuple[str, ...]]
    phases: tuple[ResolvedPhase, ...]
    never_trained: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def trainable(self) -> frozenset[str]:
        """Every parameter that trains in at least one phase: what the optimizer must hold from the first step."""
        return frozenset().union(*(phase.trainable for phase in self.phases))

    def frost_line(self, phase: ResolvedPhase) -> int:
        """How many stages, counted from the input, are frozen whole in a phase; 0 when the first one trains."""
        training = {stage_of(name, self.stages) for name in phase.trainable}
        return next(index for index, stage in enumerate(self.stages) if stage in training)


def resolve(
    policy: "FreezePolicy",
    network: nn.Module,
    *,
    stages: Mapping[str, Sequence[str]] | None = None,
    must_train: Sequence[str] = (),
) -> ResolvedPolicy:
    """Read a policy against a network.

    Args:
        stages: stage name -> module names, in execution order; found by `stages_of` when not given.
        must_train: selectors of what trains in every phase whatever the policy says, such as a new head.

    Raises:
        ValueError: a selector matches nothing, a phase trains nothing, or a learning-rate factor is given for what
            the phase freezes.
    """
    network = bare(network)
    view = {stage: tuple(names) for stage, names in (stages or stages_of(network)).items()}
    first = first_names(network)
    forced = {first[name] for name in select(network, must_train, stages=view)} if must_train else set()
    phases = tuple(
        _resolve_phase(policy, index, network, view=view, forced=forced) for index in range(len(policy.phases))
    )
    trained = frozenset().union(*(phase.trainable for phase in phases))
    never = tuple(name for name, _ in network.named_parameters() if name not in trained)
    return ResolvedPolicy(
        policy=policy, stages=view, phases=phases, never_trained=never, notes=tuple(_notes(phases, never, first))
    )


def first_names(network: nn.Module) -> dict[str, str]:
    """Every name of every parameter -> the first name of the same tensor; they differ where a tensor is shared."""
    known = {id(parameter): name for name, parameter in network.named_parameters()}
    return {name: known[id(parameter)] for name, parameter in network.named_parameters(remove_duplicate=False)}


def _resolve_phase(
    policy: "FreezePolicy", index: int, network: nn.Module, *, view: Mapping[str, tuple[str, ...]], forced: set[str]
) -> ResolvedPhase:
    phase, first = policy.phases[index], first_names(network)
    try:
        named = select(network, phase.train, stages=view)
    except ValueError as error:
        raise ValueError(f"Phase `{phase.name}`: {error}") from None
    chosen = {first[name] for name in named}
    for name in sorted(chosen):
        aliases = [alias for alias, canonical in first.items() if canonical == name]
        if not named.issuperset(aliases):
            warnings.warn(
                f"Phase `{phase.name}`: {' and '.join(f'`{alias}`' for alias in aliases)} are one tensor, of which not "
                "every name is selected; it trains under all of them.",
                stacklevel=4,
            )
    added = frozenset(forced - chosen)
    selected = frozenset(chosen | forced)
    if not selected:
        raise ValueError(f"Phase `{phase.name}`: train: [{', '.join(phase.train)}] leaves nothing to train.")
    norms = frozenset(
        name
        for name, module in network.named_modules()
        if name and is_batch_norm(module) and is_frozen_norm(name, module, network, selected, view)
    )
    affine = {
        first[f"{name}.{own}"]
        for name in norms
        for own, _ in network.get_submodule(name).named_parameters(recurse=False)
    }
    trainable = selected | affine if policy.batch_norm in ("affine", "train") else selected
    frozen = frozen_modules(network, selected, view) - norms if policy.dropout == "frozen" else frozenset()
    return ResolvedPhase(
        index=index,
        phase=phase,
        batch_norm=policy.batch_norm,
        trainable=frozenset(trainable),
        held=frozenset(frozen if policy.batch_norm in ("drift", "train") else frozen | norms),
        frozen_batch_norms=norms,
        lr=_factors(phase, network, trainable, view),
        added=added,
    )


def is_frozen_norm(
    name: str, module: nn.Module, network: nn.Module, selected: frozenset[str], view: Mapping[str, tuple[str, ...]]
) -> bool:
    """Whether a batch norm lies in the frozen region: not all of its own parameters were selected.

    So `*.bias` alone leaves the statistics where they are. One without parameters follows the module around it.
    """
    own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
    if own:
        return not selected.issuperset(first_names(network)[entry] for entry in own)
    return name in frozen_modules(network, selected, view)


def frozen_modules(network: nn.Module, selected: frozenset[str], view: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """Names of the modules in which nothing trains.

    A module without parameters (dropout, drop path) is as frozen as the nearest module around it that has some; where
    that is the whole network, as the stage that names it.
    """
    first = first_names(network)
    holders: dict[str, list[bool]] = {}
    for name, canonical in first.items():
        parts = name.split(".")[:-1]
        for depth in range(len(parts) + 1):
            holders.setdefault(".".join(parts[:depth]), []).append(canonical in selected)
    training_stages = {stage_of(name, view) for name in set(first.values()) & selected}
    frozen = set()
    for name, _ in network.named_modules():
        around = name
        while around and around not in holders:
            around = around.rpartition(".")[0]
        if around and not any(holders[around]):
            frozen.add(name)
        homes = [stage for stage, modules in view.items() if in_stage(name, modules)]
        if name and not around and homes and training_stages.isdisjoint(homes):
            frozen.add(name)
    return frozenset(frozen)


def _factors(
    phase: "Phase", network: nn.Module, trainable: Iterable[str], view: Mapping[str, tuple[str, ...]]
) -> dict[str, float]:
    order, first = list(view), first_names(network)
    factors = dict.fromkeys(trainable, 1.0)
    for selector, factor in phase.lr.items():
        try:
            named = {first[name] for name in match(network, selector, stages=view)}
        except ValueError as error:
            raise ValueError(f"Phase `{phase.name}`, `lr`: {error}") from None
        if not named & factors.keys():
            raise ValueError(
                f"Phase `{phase.name}` gives `{selector}` a learning-rate factor, but freezes it; "
                f"add it to train: [{', '.join(phase.train)}] or drop the factor."
            )
        factors.update(dict.fromkeys(named & factors.keys(), factor))
    if phase.lr_decay is not None:
        for name in factors:
            factors[name] *= phase.lr_decay ** (len(order) - 1 - order.index(stage_of(name, view)))
    return factors


def _notes(phases: Sequence[ResolvedPhase], never: Sequence[str], first: Mapping[str, str]) -> Iterable[str]:
    for phase in phases:
        if phase.added:
            yield f"Phase `{phase.name}` also trains {_short(sorted(phase.added))}: new, so it must."
    shared = [f"`{alias}` = `{name}`" for alias, name in first.items() if alias != name]
    if shared:
        yield f"Shared tensors: {', '.join(shared)}."
    if never:
        yield f"Never trained in any phase: {_short(never)}."


def _short(names: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
