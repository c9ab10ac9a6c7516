"""Learning rates across phases: the scheduler's rate x the phase's factor x the warm-up since unfreezing.

The scheduler's own rate stays in the parameter groups; the factors are multiplied in for the duration of one optimizer
step and removed again. So every scheduler works, also those that compute the next rate from the last one
(ExponentialLR, ReduceLROnPlateau) and those that set it outright (OneCycleLR), and a checkpoint holds the scheduler's
rates.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.freezing.selectors import bare


def unfrozen_since(resolved: ResolvedPolicy, name: str, index: int) -> int:
    """The phase since which a parameter that trains in phase `index` has trained without a break."""
    while index > 0 and name in resolved.phases[index - 1].trainable:
        index -= 1
    return index


def warmup_factor(steps_since_unfreezing: int, warmup_steps: int) -> float:
    """Rises linearly from 1/warmup_steps at the first step to 1 at step `warmup_steps - 1`, and stays there."""
    return min(1.0, (steps_since_unfreezing + 1) / warmup_steps) if warmup_steps else 1.0


class GroupFactors:
    """The factor of each parameter group of one optimizer, in any phase at any step.

    Raises:
        ValueError: parameters of one group train at different rates in some phase, but a group has one.
    """

    def __init__(self, *, network: nn.Module, groups: Sequence[Mapping[str, Any]], resolved: ResolvedPolicy) -> None:
        self._resolved = resolved
        names = {id(parameter): name for name, parameter in bare(network).named_parameters()}
        inside = [[names[id(entry)] for entry in group["params"] if id(entry) in names] for group in groups]
        self._table = [[self._value(phase, group) for group in inside] for phase in resolved.phases]

    def _value(self, phase: ResolvedPhase, group: Sequence[str]) -> tuple[float, int]:
        """A group's factor, and the phase that its warm-up began in; -1 without a warm-up."""
        values: dict[tuple[float, int], str] = {}
        for name in group:
            if name in phase.trainable:
                since = unfrozen_since(self._resolved, name, phase.index)
                values.setdefault((phase.lr[name], since if self._resolved.phases[since].warmup_steps else -1), name)
        if len(values) > 1:
            raise ValueError(
                f"One parameter group holds {' and '.join(f'`{name}`' for name in values.values())}, which train at "
                "different learning rates (factor, or warm-up since unfreezing). Build the optimizer from "
                "frostline.optim.parameter_groups(network, resolved=policy.resolve(network), lr=…)."
            )
        return next(iter(values), (1.0, -1))

    def at(self, index: int, starts: Sequence[tuple[int, int]], step: int) -> list[float]:
        """One factor per group; 1 for a group in which nothing trains.

        Args:
            index: the current phase.
            starts: step and epoch at which each phase so far began.
            step: optimizer steps done.
        """
        factors = []
        for factor, since in self._table[index]:
            if since >= 0:
                factor *= warmup_factor(step - starts[since][0], self._resolved.phases[since].warmup_steps)
            factors.append(factor)
        return factors


class PhaseLRMultiplier:
    """Multiplies an optimizer's learning rates for the duration of each step.

    An error inside a step leaves the factors in; they are removed before the next step, and before the optimizer's
    state is read for a checkpoint.
    """

    def __init__(self, *, optimizer: Optimizer, factors: Callable[[], list[float]]) -> None:
        self._optimizer = optimizer
        self._factors = factors
        self._own: list[Any] | None = None
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self._multiply()),
            optimizer.register_step_post_hook(lambda *_: self.restore()),
            optimizer.register_state_dict_pre_hook(lambda *_: self.restore()),
        ]

    @property
    def scheduled(self) -> list[Any]:
        """The scheduler's own rates, also while the factors are multiplied in."""
        return [group["lr"] for group in self._optimizer.param_groups] if self._own is None else list(self._own)

    def rates(self, network: nn.Module, phase: ResolvedPhase) -> list[dict[str, float]]:
        """For each parameter group: trainable parameter -> the learning rate at which it trains in this step."""
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        found: list[dict[str, float]] = []
        for group, lr, factor in zip(self._optimizer.param_groups, self.scheduled, self._factors(), strict=True):
            inside = [names.get(id(parameter)) for parameter in group["params"]]
            found.append({name: float(lr) * factor for name in inside if name is not None and name in phase.trainable})
        return found

    def restore(self) -> None:
        """Write the scheduler's own rates back."""
        if self._own is not None:
            for group, lr in zip(self._optimizer.param_groups, self._own, strict=True):
                group["lr"] = lr
            self._own = None

    def remove(self) -> None:
        """Restore the rates and remove the hooks from the optimizer."""
        self.restore()
        for handle in self._handles:
            handle.remove()

    def _multiply(self) -> None:
        self.restore()
        self._own = [group["lr"] for group in self._optimizer.param_groups]
        for group, factor in zip(self._optimizer.param_groups, self._factors(), strict=True):
            if factor != 1.0:
                group["lr"] = group["lr"] * factor
