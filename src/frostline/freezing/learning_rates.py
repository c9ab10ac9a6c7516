"""Learning rates across phases: the scheduler's rate x the phase's factor x the warm-up since unfreezing.

The scheduler's own rate stays in the parameter groups; the factors are multiplied in for the duration of one optimizer
step and removed again. So every scheduler works, also those that compute the next rate from the last one
(ExponentialLR, ReduceLROnPlateau) and those that set it outright (OneCycleLR), and a checkpoint holds the scheduler's
rates.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.freezing.selectors import bare


def warmup_factor(steps_since_unfreezing: int, warmup_steps: int) -> float:
    """Rises linearly from 1/warmup_steps at the first step to 1 at step `warmup_steps - 1`, and stays there."""
    return min(1.0, (steps_since_unfreezing + 1) / warmup_steps) if warmup_steps else 1.0


class PhaseLRMultiplier:
    """Multiplies an optimizer's learning rates for the duration of each step.

    An error inside a step leaves the factors in; they are removed before the next step, and before the optimizer's
    state is read for a checkpoint.

    Args:
        position: the current phase's index, step and epoch at which each phase so far began, optimizer steps done.
        warmup_steps: a phase's index -> optimizer steps of its warm-up; see `phase_clock.Span`.

    Raises:
        ValueError: parameters of one group train at different rates in some phase, but a group has one.
    """

    def __init__(
        self,
        *,
        optimizer: Optimizer,
        network: nn.Module,
        resolved: ResolvedPolicy,
        position: Callable[[], tuple[int, Sequence[tuple[int, int]], int]],
        warmup_steps: Callable[[int], int],
    ) -> None:
        self._optimizer, self._resolved = optimizer, resolved
        self._position, self._warmup_steps = position, warmup_steps
        names = {id(parameter): name for name, parameter in bare(network).named_parameters()}
        groups = optimizer.param_groups
        self._names = [[names[id(entry)] for entry in group["params"] if id(entry) in names] for group in groups]
        self._trains = [[not phase.trainable.isdisjoint(group) for group in self._names] for phase in resolved.phases]
        self._table = [[self._factor(phase, group) for group in self._names] for phase in resolved.phases]
        self._own: list[Any] | None = None
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self._multiply()),
            optimizer.register_step_post_hook(lambda *_: self.restore()),
            optimizer.register_state_dict_pre_hook(lambda *_: self.restore()),
        ]

    def factors(self) -> list[float]:
        """One factor per group; 1 for a group in which nothing trains."""
        index, starts, step = self._position()
        factors = []
        for factor, since in self._table[index]:
            if since >= 0:
                factor *= warmup_factor(step - starts[since][0], self._warmup_steps(since))
            factors.append(factor)
        return factors

    def group_rates(self) -> list[float]:
        """The learning rate at which each parameter group trains in this step; 0 where nothing of it trains."""
        # The scheduler's own rates, also while the factors are multiplied in.
        scheduled = self._own or [group["lr"] for group in self._optimizer.param_groups]
        trains = self._trains[self._position()[0]]
        groups = zip(scheduled, self.factors(), trains, strict=True)
        return [float(lr) * factor if training else 0.0 for lr, factor, training in groups]

    def rates(self) -> dict[str, float]:
        """The learning rate at which each trainable parameter trains in this step."""
        trainable = self._resolved.phases[self._position()[0]].trainable
        groups = zip(self._names, self.group_rates(), strict=True)
        return {name: rate for names, rate in groups for name in names if name in trainable}

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
        for group, factor in zip(self._optimizer.param_groups, self.factors(), strict=True):
            if factor != 1.0:
                group["lr"] = group["lr"] * factor

    def _factor(self, phase: ResolvedPhase, group: Sequence[str]) -> tuple[float, int]:
        """A group's factor, and the phase that its warm-up began in; -1 without a warm-up."""
        phases, values = self._resolved.phases, dict[tuple[float, int], str]()
        for name in group:
            if name not in phase.trainable:
                continue
            since = phase.index  # the phase since which it has trained without a break
            while since > 0 and name in phases[since - 1].trainable:
                since -= 1
            values.setdefault((phase.lr[name], since if phases[since].warmup_steps else -1), name)
        if len(values) > 1:
            raise ValueError(
                f"One parameter group holds {' and '.join(f'`{name}`' for name in values.values())}, which "
                "train at different learning rates (factor, or warm-up since unfreezing). Build the optimizer from "
                "frostline.optim.parameter_groups(network, resolved=policy.resolve(network), lr=…)."
            )
        return next(iter(values), (1.0, -1))
