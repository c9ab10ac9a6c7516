"""The learning rates that a run to come will have, by the same code as the run's own."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from frostline.freezing.learning_rates import PhaseLRMultiplier
from frostline.freezing.phase_clock import Span
from frostline.freezing.resolved import ResolvedPolicy


@dataclass(frozen=True, kw_only=True)
class PlannedRates:
    """The learning rate of each parameter group in each optimizer step of a run.

    groups: names of the parameter groups. steps: for each step a rate for each group; 0 where nothing of it trains.
    """

    groups: tuple[str, ...]
    steps: tuple[tuple[float, ...], ...]

    def courses(self, start: int = 0, end: int | None = None) -> dict[tuple[float, ...], list[str]]:
        """The different courses of rates between two steps, each with the groups that take it; without frozen ones."""
        found: dict[tuple[float, ...], list[str]] = {}
        for name, course in zip(self.groups, zip(*self.steps[start:end], strict=True), strict=True):
            if any(course):
                found.setdefault(course, []).append(name)
        return found


def planned_rates(
    spans: Sequence[Span],
    *,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    network: nn.Module,
    resolved: ResolvedPolicy,
    total_steps: int,
) -> PlannedRates:
    """Step a scheduler through a run without training; after a phase that waits for a metric, of the longest wait.

    Args:
        spans: of `timeline`.
        optimizer: of named groups, whose parameters have no gradients: its steps change nothing.

    Raises:
        ValueError: the scheduler follows a metric.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError("scheduler: ReduceLROnPlateau follows a metric, so its rates are not known before the run.")
    index, step = 0, 0
    starts = [(span.start, 0) for span in spans]
    multiplier = PhaseLRMultiplier(
        optimizer=optimizer,
        network=network,
        resolved=resolved,
        position=lambda: (index, starts, step),
        warmup_steps=lambda phase: spans[phase].warmup_steps,
    )
    rates = []
    optimizer.step()  # torch warns of a scheduler that steps before its optimizer
    for step in range(total_steps):
        while index + 1 < len(spans) and step >= spans[index + 1].start:
            index += 1
        rates.append(tuple(multiplier.group_rates()))
        scheduler.step()
    multiplier.remove()
    return PlannedRates(groups=tuple(group["name"] for group in optimizer.param_groups), steps=tuple(rates))
