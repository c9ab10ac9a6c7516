"""Parameter groups for one optimizer over all phases of a freezing policy.

The groups are fixed and named from the first step and contain every parameter that trains in any phase. A frozen
parameter has no gradient, costs neither time nor optimizer state, and is skipped. No group is added later: LambdaLR,
OneCycleLR and others fail when a group appears, and a checkpoint would no longer fit.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.optim import Optimizer

from frostline.freezing.resolved import ResolvedPolicy
from frostline.freezing.selectors import bare, stage_of

DecayExclusion = Literal["bias", "norm"]
# Builds an optimizer from parameter groups: a class of torch.optim, a partial of one, or a function.
OptimizerBuilder: TypeAlias = Callable[[list[dict[str, Any]]], Optimizer]

UNSUPPORTED = (torch.optim.LBFGS, torch.optim.SparseAdam)


def checked_optimizer(build: OptimizerBuilder, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer that `build` makes of parameter groups, with its own learning rate and weight decay.

    Raises:
        ValueError: it takes no groups, a value is not finite, or it decays a group that excludes weight decay.
    """
    without_decay = {id(entry) for group in groups if "weight_decay" in group for entry in group["params"]}
    try:
        optimizer = build(groups)
    except ValueError as error:
        raise ValueError(f"optimizer: {error}") from error
    kind = type(optimizer).__name__
    if isinstance(optimizer, UNSUPPORTED):
        raise ValueError(
            f"optimizer: {kind} is not supported: LBFGS takes no groups of parameters, SparseAdam sparse gradients "
            "only. Use another, such as AdamW"
        )
    for group in optimizer.param_groups:
        for key in ("lr", "weight_decay"):
            if not math.isfinite(group.get(key, 0.0)):
                raise ValueError(f"{key}: must be finite; {kind} has {group[key]}")
        if group.get("weight_decay") and any(id(entry) in without_decay for entry in group["params"]):
            raise ValueError(
                f"exclude_from_decay: {kind} decays what is excluded, as it was not built from the groups that it was "
                "given"
            )
    return optimizer


def parameter_groups(
    network: nn.Module,
    *,
    resolved: ResolvedPolicy,
    lr: float | None = None,
    weight_decay: float | None = None,
    exclude_from_decay: Collection[DecayExclusion] = (),
) -> list[dict[str, Any]]:
    """One group per stage, split in two if biases or norms are excluded from weight decay.

    A stage whose parameters differ within some phase (one trains and another does not, or at another rate) has one
    group for each kind, so that all parameters of a group train together, at one rate, in every phase. Groups are named
    after their stage (`layer4`, `layer4/no_decay`, `layer4/2`), in execution order.

    Factors of stages and phases are not in the groups: `FreezingSchedule` applies them around each optimizer step, so
    that schedulers never see them.

    Args:
        lr, weight_decay: of every group; None leaves them to the optimizer that is built from the groups.
        exclude_from_decay: `bias` (every bias), `norm` (scale and shift of normalisation layers, whose biases are
            biases, too).

    Raises:
        ValueError: the policy was resolved for another network, or `exclude_from_decay` has another value.
    """
    if unknown := set(exclude_from_decay) - set(get_args(DecayExclusion)):
        raise ValueError(f"`exclude_from_decay` knows {', '.join(get_args(DecayExclusion))}; got {sorted(unknown)}.")
    own = dict(bare(network).named_parameters())
    if foreign := sorted(resolved.trainable - own.keys()):
        raise ValueError(f"The policy was resolved for another network: this one has no parameter `{foreign[0]}`.")
    groups: dict[tuple[str, bool, tuple[float | None, ...]], dict[str, Any]] = {}
    stages, excluded = list(resolved.stages), _excluded(network, exclude_from_decay)
    order = sorted(
        (name for name in own if name in resolved.trainable),
        key=lambda name: (stages.index(stage_of(name, resolved.stages)), name in excluded),
    )
    for name in order:
        # None in a phase that freezes it: parameters that are unfrozen at different times warm up at different times.
        factors = tuple(phase.lr[name] if name in phase.trainable else None for phase in resolved.phases)
        group = groups.setdefault((stage_of(name, resolved.stages), name in excluded, factors), {"params": []})
        group["params"].append(own[name])
    taken: dict[str, int] = {}
    for (stage, no_decay, _), group in groups.items():
        label = f"{stage}/no_decay" if no_decay else stage
        taken[label] = taken.get(label, 0) + 1
        group["name"] = label if taken[label] == 1 else f"{label}/{taken[label]}"
        # A value in a group overrides the optimizer's own: only what is given goes in.
        group.update({} if lr is None else {"lr": lr})
        if no_decay or weight_decay is not None:
            group["weight_decay"] = 0.0 if no_decay else weight_decay
    partition = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert sorted(partition) == sorted(id(own[name]) for name in resolved.trainable), "not an exact partition"
    return list(groups.values())


def _excluded(network: nn.Module, exclude_from_decay: Collection[DecayExclusion]) -> set[str]:
    """Names of the parameters without weight decay."""
    excluded: set[str] = set()
    for name, module in bare(network).named_modules():
        for own, _ in module.named_parameters(recurse=False):
            # `bias`, and multi-head attention's `in_proj_bias`.
            is_bias = own.endswith("bias")
            # By class name: norms have no common class in torch (LayerNorm, GroupNorm, RMSNorm, _BatchNorm …).
            is_norm = any("Norm" in cls.__name__ for cls in type(module).__mro__)
            if ("bias" in exclude_from_decay and is_bias) or ("norm" in exclude_from_decay and is_norm):
                excluded.add(f"{name}.{own}" if name else own)
    return excluded
