"""The progress of a run through its policy, and when the next phase is due. Plain numbers, without a trainer."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from frostline.freezing.policy import FreezePolicy, Until


@dataclass(kw_only=True)
class Progress:
    """The current phase, and the counters that decide when it ends.

    index: the current phase's place in the policy.
    starts: for each phase entered so far, the optimizer step and the epoch at which it began.
    best, stale: best value of the phase's metric so far, and evaluations in a row that did not improve on it.
    evaluated_at: optimizer step of the last counted evaluation, so that none counts twice after a resume.
    """

    index: int = 0
    starts: list[tuple[int, int]] = field(default_factory=list)
    best: float | None = None
    stale: int = 0
    evaluated_at: int = -1

    def begin(self, index: int, *, step: int, epoch: int) -> None:
        """Enter a phase."""
        assert len(self.starts) == index, "phases begin in order, each once"
        self.index, self.best, self.stale = index, None, 0
        self.starts.append((step, epoch))

    def due(self, policy: FreezePolicy, *, step: int, epoch: int, total_steps: float) -> str | None:
        """Why the next phase should begin now, or None.

        Args:
            step: optimizer steps done.
            epoch: the current epoch.
            total_steps: optimizer steps of the whole run; fractions are of those from the first phase's start on.
        """
        until = policy.phases[self.index].until
        if until is None:
            return None
        first_step, first_epoch = self.starts[self.index]
        steps, epochs = step - first_step, epoch - first_epoch
        if until.epochs is not None and epochs >= until.epochs:
            return f"{until.epochs} epochs have passed"
        if until.steps is not None and steps >= until.steps:
            return f"{until.steps} steps have passed"
        if until.fraction is not None and steps >= fraction_steps(until.fraction, total_steps - self.starts[0][0]):
            return f"{until.fraction:g} of the run has passed"
        if until.metric is not None and until.patience is not None and self.stale >= until.patience:
            if self.best is None:
                return f"{until.metric} has been no number in {self.stale} evaluations"
            return f"{until.metric} has not improved on {self.best:g} in {self.stale} evaluations"
        if until.max_epochs is not None and epochs >= until.max_epochs:
            return f"{until.max_epochs} epochs have passed, the most that waiting for {until.metric} may take"
        return None

    def evaluate(self, until: Until, value: float, *, step: int) -> None:
        """Count one evaluation of the phase's metric; NaN is no improvement."""
        if step == self.evaluated_at:
            return
        self.evaluated_at = step
        if self.best is None:
            better = not math.isnan(value)
        elif until.mode == "min":
            better = value < self.best - until.min_delta
        else:
            better = value > self.best + until.min_delta
        if better:
            self.best, self.stale = value, 0
        else:
            self.stale += 1

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "starts": [list(start) for start in self.starts]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Progress":
        return cls(**{**plain, "starts": [(step, epoch) for step, epoch in plain["starts"]]})


@dataclass(frozen=True, kw_only=True)
class Span:
    """When a phase begins in a run, in optimizer steps; at the `latest`, if an earlier phase waits for a metric."""

    name: str
    first_step: int
    latest: bool


def timeline(policy: FreezePolicy, *, steps_per_epoch: int, total_steps: int, start: int = 0) -> list[Span]:
    """When each phase begins, as far as it can be known before the run. One due at `total_steps` or later never begins.

    Args:
        start: the step at which the first phase begins; fractions are of the steps from there on.
    """
    spans, step, latest = [], start, False
    for phase in policy.phases:
        spans.append(Span(name=phase.name, first_step=step, latest=latest))
        until, epoch = phase.until, step // steps_per_epoch
        if until is None:
            break
        latest = latest or until.metric is not None
        epochs = until.epochs or until.max_epochs
        if until.steps is not None:
            step += until.steps
        elif until.fraction is not None:
            step += fraction_steps(until.fraction, total_steps - start)
        elif epochs is not None:
            step = (epoch + epochs) * steps_per_epoch
    return spans


def schedule_warnings(policy: FreezePolicy, *, steps_per_epoch: int, total_steps: int, start: int = 0) -> list[str]:
    """A message for each phase that begins after the end of the run, or of the part of it from `start` on."""
    found = []
    for span in timeline(policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps, start=start):
        if span.first_step >= total_steps:
            begins, end = ("at the latest after", "may never begin") if span.latest else ("after", "never begins")
            found.append(
                f"The policy does not fit the run: phase `{span.name}` would begin {begins} {span.first_step} steps, "
                f"but the run has {total_steps} ({steps_per_epoch} per epoch), so it {end}; max_epochs stays as it is."
            )
    return found


def warmup_warnings(policy: FreezePolicy, *, steps_per_epoch: int, total_steps: int, start: int = 0) -> list[str]:
    """A message for each phase that is shorter than its warm-up."""
    found = []
    spans = timeline(policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps, start=start)
    ends = [*(span.first_step for span in spans[1:]), total_steps]
    for phase, span, end in zip(policy.phases, spans, ends, strict=True):
        steps = min(end, total_steps) - span.first_step
        if 0 < steps < phase.warmup_steps:
            most = " at most" if phase.until is not None and phase.until.metric is not None else ""
            found.append(
                f"Phase `{phase.name}` lasts {steps} steps{most}, fewer than its warmup_steps={phase.warmup_steps}: in "
                f"it, newly unfrozen parameters reach {steps / phase.warmup_steps:.0%} of their learning rate."
            )
    return found


def fraction_steps(fraction: float, total_steps: float) -> int:
    """A share of the run in whole optimizer steps, at least one.

    Raises:
        ValueError: the length of the run is unknown.
    """
    if not 0 < total_steps < float("inf"):
        raise ValueError(
            "A phase lasts a fraction of the run, but the run's length is unknown (max_epochs=-1, or a loader without "
            "length): use `steps` or `epochs`, or give the trainer max_steps."
        )
    return max(1, round(fraction * total_steps))
