"""A policy read against a network: for each phase the exact names of the parameters that train and of the modules that
stay in eval mode.

Names only, never module references: converting to SyncBatchNorm makes new modules under the old names.
"""

import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from frostline.freezing.selectors import bare, in_stage, match, select, stage_of, stages_of
from frostline.nearest import suggest

if TYPE_CHECKING:
    from frostline.freezing.policy import FreezePolicy, Phase, Until


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm of any kind, or an instance norm that keeps running statistics as one does."""
    # _BatchNorm is the name under which torch groups all dimensions, SyncBatchNorm and the lazy ones.
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True
    return isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.running_mean is not None


@dataclass(frozen=True, kw_only=True)
class ResolvedPhase:
    """One phase on one network.

    name, until, warmup_steps: as in the policy's phase.
    trainable: names of the parameters that train, each under its first name.
    eval_modules: names of the modules that stay in eval mode, also after a call of `train()`.
    frozen_batch_norms: names of the batch norms in the frozen part, to which the policy's `batch_norm` applies.
    lr: learning-rate factor of each trainable parameter.
    forced: parameters that train because of `always_trainable`, not because the phase selects them.
    """

    index: int
    name: str
    until: "Until | None"
    warmup_steps: int
    trainable: frozenset[str]
    eval_modules: frozenset[str]
    frozen_batch_norms: frozenset[str]
    lr: Mapping[str, float]
    forced: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class ResolvedPolicy:
    """All phases on one network.

    stages: stage name -> module names, in execution order.
    never_trained: parameters that train in no phase.
    warnings: messages for the user: parameters that are forced, shared, never trained.
    """

    policy: "FreezePolicy"
    stages: Mapping[str, tuple[str, ...]]
    phases: tuple[ResolvedPhase, ...]
    never_trained: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def trainable(self) -> frozenset[str]:
        """Every parameter that trains in at least one phase; the optimizer must have them all from the first step."""
        return frozenset().union(*(phase.trainable for phase in self.phases))

    def frost_line(self, phase: ResolvedPhase) -> int:
        """How many stages, counted from the input, are completely frozen in a phase; 0 when the first one trains."""
        training = {stage_of(name, self.stages) for name in phase.trainable}
        return next(index for index, stage in enumerate(self.stages) if stage in training)


def resolve(
    policy: "FreezePolicy",
    network: nn.Module,
    *,
    stages: Mapping[str, Sequence[str]] | None = None,
    always_trainable: Sequence[str] = (),
) -> ResolvedPolicy:
    """Read a policy against a network.

    Args:
        stages: stage name -> module names, in execution order; found by `stages_of` when not given.
        always_trainable: selectors of parameters that train in every phase, whatever the policy says: a new head.

    Raises:
        ValueError: a selector matches nothing, a phase trains nothing, or a learning-rate factor is given for what
            the phase freezes.
    """
    network = bare(network)
    view = {stage: tuple(names) for stage, names in (stages or stages_of(network)).items()}
    first = first_names(network)
    forced = {first[name] for name in select(network, always_trainable, stages=view)}
    phases = tuple(
        _resolve_phase(policy, index, network, view=view, forced=forced) for index in range(len(policy.phases))
    )
    trained = frozenset().union(*(phase.trainable for phase in phases))
    never = tuple(name for name, _ in network.named_parameters() if name not in trained)
    return ResolvedPolicy(
        policy=policy, stages=view, phases=phases, never_trained=never, warnings=tuple(_warnings(phases, never, first))
    )


def find_network(module: nn.Module, attribute: str | None) -> nn.Module:
    """The network that a module holds under an attribute (`net`, `model.backbone`); None: the module itself.

    Raises:
        ValueError: there is no such attribute, or it is no module.
    """
    if attribute is None:
        return bare(module)
    kind = type(module).__name__
    try:
        network = operator.attrgetter(attribute)(module)
    except AttributeError:
        names = [name for name, _ in module.named_modules() if name and name.count(".") < 2]
        raise ValueError(f"{kind} has no attribute `{attribute}`.{suggest(attribute, names)}") from None
    if not isinstance(network, nn.Module):
        raise ValueError(f"`{attribute}` of {kind} is no module, but {network!r}.")
    return bare(network)


def resolve_in_module(
    policy: "FreezePolicy", network: nn.Module, *, attribute: str | None, always_trainable: Sequence[str]
) -> ResolvedPolicy:
    """`resolve`, whose error names the attribute of a LightningModule that FreezingSchedule was not given."""
    try:
        return resolve(policy, network, always_trainable=always_trainable)
    except ValueError as error:
        holders = [name for name, child in network.named_children() if next(child.parameters(), None) is not None]
        if attribute is None and len(holders) == 1:
            hint = f"The network is `{holders[0]}`: give FreezingSchedule attribute={holders[0]!r}."
            raise ValueError(f"{error} {hint}") from None
        raise


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
    selected = frozenset(chosen | forced)
    if not selected:
        raise ValueError(f"Phase `{phase.name}`: train: [{', '.join(phase.train)}] leaves nothing to train.")
    frozen = frozen_modules(network, first, selected, view)
    own = {
        name: {first[f"{name}.{key}"] for key, _ in module.named_parameters(recurse=False)}
        for name, module in network.named_modules()
        if name and is_batch_norm(module)
    }
    # `*.bias` alone leaves the statistics unchanged; a batch norm without parameters follows the module around it.
    norms = frozenset(name for name, entries in own.items() if (entries - selected if entries else name in frozen))
    affine = frozenset().union(*(own[name] for name in norms))
    trainable = selected | affine if policy.batch_norm in ("affine", "train") else selected
    in_eval = frozen - norms if policy.dropout == "frozen" else frozenset()
    return ResolvedPhase(
        index=index,
        name=phase.name,
        until=phase.until,
        warmup_steps=phase.warmup_steps,
        trainable=trainable,
        eval_modules=in_eval if policy.batch_norm in ("drift", "train") else in_eval | norms,
        frozen_batch_norms=norms,
        lr=_factors(phase, network, trainable, view),
        forced=frozenset(forced - chosen),
    )


def frozen_modules(
    network: nn.Module, first: Mapping[str, str], selected: frozenset[str], view: Mapping[str, tuple[str, ...]]
) -> frozenset[str]:
    """Names of the modules in which nothing trains.

    A module without parameters (dropout, drop path) is frozen if the nearest module around it that has some is; if
    that is the whole network, if the stage that names it is.
    """
    trains: dict[str, bool] = {}
    for name, canonical in first.items():
        while name:
            name = name.rpartition(".")[0]
            trains[name] = trains.get(name, False) or canonical in selected
    training_stages = {stage_of(name, view) for name in selected}
    frozen = set()
    for name, _ in network.named_modules():
        around = name
        while around and around not in trains:
            around = around.rpartition(".")[0]
        stages = {stage for stage, modules in view.items() if in_stage(name, modules)}
        if not trains[around] if around else name and stages and stages.isdisjoint(training_stages):
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


def _warnings(phases: Sequence[ResolvedPhase], never: Sequence[str], first: Mapping[str, str]) -> Iterable[str]:
    for phase in phases:
        if phase.forced:
            yield f"Phase `{phase.name}` also trains {_short(sorted(phase.forced))}, which always trains."
    shared = [f"`{alias}` = `{name}`" for alias, name in first.items() if alias != name]
    if shared:
        yield f"Shared tensors: {', '.join(shared)}."
    if never:
        yield f"Never trained in any phase: {_short(never)}."


def _short(names: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
