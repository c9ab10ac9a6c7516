"""When a phase of a fit ends: its counters, the metric that it waits for, and Lightning's EarlyStopping."""

import logging
import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import ModelParallelStrategy

from frostline.freezing import lightning_internals as internals
from frostline.freezing.policy import FreezePolicy, Phase, Until

log = logging.getLogger("frostline.freezing")


@dataclass(kw_only=True)
class PhaseState:
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

    def due(self, until: Until | None, *, step: int, epoch: int, total_steps: float) -> str | None:
        """Why the next phase should begin now, or None.

        Args:
            until: of the current phase.
            step: optimizer steps done.
            total_steps: optimizer steps of the whole run; fractions are of those from the first phase's start on.
        """
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
        if until.patience is not None and self.stale >= until.patience:
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


class PhaseClock:
    """Follows a fit through a policy: counts evaluations, finds the end of a phase, enters the next."""

    def __init__(self, policy: FreezePolicy) -> None:
        self.policy = policy
        self.state = PhaseState()
        self._validation_left = False

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self.policy.phases[self.state.index]

    @property
    def has_begun(self) -> bool:
        """Whether the first phase has begun."""
        return bool(self.state.starts)

    def starts(self, trainer: "pl.Trainer") -> list[tuple[int, int]]:
        """Step and epoch at which each phase so far began; before the first one the present ones."""
        return self.state.starts or [(trainer.global_step, trainer.current_epoch)]

    def state_dict(self) -> dict[str, Any]:
        return {**asdict(self.state), "starts": [list(start) for start in self.state.starts]}

    def load(self, trainer: "pl.Trainer", state: Mapping[str, Any], loops: dict[str, Any]) -> None:
        """Continue where a checkpoint was written.

        Args:
            state: of `state_dict`.
            loops: `checkpoint["loops"]["fit_loop"]`; changed in place.

        Raises:
            ValueError: the strategy would lose optimizer state.
        """
        self.state = PhaseState(**{**state, "starts": [(step, epoch) for step, epoch in state["starts"]]})
        if isinstance(trainer.strategy, ModelParallelStrategy) and self.state.index > 0:
            # Measured: resumed in the second phase, the unfrozen parameters went on without their momentum.
            raise ValueError(
                "Under ModelParallelStrategy a run can be resumed in its first phase only: the strategy loads the "
                "optimizer before any callback can unfreeze parameters, and drops the state of those that were frozen "
                "at first. Use strategy='ddp', or start a new run from the weights."
            )
        if self.phase.until is not None and self.phase.until.metric is not None:
            self._validation_left = internals.finish_batch(loops)

    def begin_fit(self, trainer: "pl.Trainer") -> None:
        """Warn of phases that the run is too short for, and make up for a validation that a resumed run has missed.

        Raises:
            ValueError: a phase waits for a metric, and there is no validation.
        """
        if any(phase.until and phase.until.metric for phase in self.policy.phases) and not trainer.enable_validation:
            raise ValueError("policy: a phase waits for a metric, but this run has no validation that could log one.")
        steps = trainer.estimated_stepping_batches
        if steps != float("inf"):
            per_epoch, start = internals.steps_per_epoch(trainer), self.starts(trainer)[0][0]
            run = {"steps_per_epoch": per_epoch, "total_steps": int(steps), "start": start}
            for message in schedule_warnings(self.policy, **run):
                warnings.warn(message, stacklevel=3)
            for message in warmup_warnings(self.policy, **run):
                if trainer.is_global_zero:
                    log.warning("%s", message)
        if self._validation_left:
            internals.resume_validation(trainer)

    def due(self, trainer: "pl.Trainer", *, epochs_ahead: int = 0) -> str | None:
        """Why the next phase should begin now, or at the end of this epoch; None: it should not."""
        until = self.phase.until
        total_steps = trainer.estimated_stepping_batches if until and until.fraction else float("inf")
        epoch = trainer.current_epoch + epochs_ahead
        return self.state.due(until, step=trainer.global_step, epoch=epoch, total_steps=total_steps)

    def latest_end(self, trainer: "pl.Trainer") -> int:
        """The optimizer step at which the current phase ends, at the latest; `sys.maxsize` where the run has no end."""
        total, starts = int(min(trainer.estimated_stepping_batches, sys.maxsize)), self.starts(trainer)
        per_epoch = internals.steps_per_epoch(trainer)
        span = timeline(self.policy, steps_per_epoch=per_epoch, total_steps=total, start=starts[0][0])[self.state.index]
        return min(total, starts[self.state.index][0] + span.end - span.start)

    def advance(self, trainer: "pl.Trainer") -> str:
        """Enter the first phase, or all next ones that are due; the reason."""
        step, epoch = trainer.global_step, trainer.current_epoch
        if not self.has_begun:
            self.state.begin(0, step=step, epoch=epoch)
            return "start"
        reason = ""
        while (due := self.due(trainer)) is not None:
            self.state.begin(self.state.index + 1, step=step, epoch=epoch)
            reason = due
        return reason

    def after_validation(self, trainer: "pl.Trainer") -> None:
        """Count an evaluation."""
        until = self.phase.until
        if until is not None and until.metric is not None:
            value = internals.reduced_metric(trainer, until.metric, phase=self.phase.name)
            self.state.evaluate(until, value, step=trainer.global_step)
        # A phase change that is due comes before an early stop at the same evaluation.
        if self.has_begun and self.due(trainer) is not None:
            internals.restart_patience(trainer)

    def after_epoch(self, trainer: "pl.Trainer") -> None:
        """Prevent an early stop at the end of an epoch that ends a phase."""
        if self._validation_left:
            self._validation_left = False
            internals.end_restart(trainer)
        if self.has_begun and self.due(trainer, epochs_ahead=1) is not None:
            internals.restart_patience(trainer)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A phase's optimizer steps in a run, up to `end`; at the `latest`, if an earlier phase waits for a metric."""

    phase: Phase
    start: int
    end: int
    latest: bool


def timeline(policy: FreezePolicy, *, steps_per_epoch: int, total_steps: int, start: int = 0) -> list[Span]:
    """When each phase begins, as far as it can be known before the run. One due at `total_steps` or later never begins.

    Args:
        start: the step at which the first phase begins; fractions are of the steps from there on.
    """
    spans, step, latest = [], start, False
    for phase in policy.phases:
        until, end = phase.until, total_steps
        epochs = until and (until.epochs or until.max_epochs)
        if until is not None and until.steps is not None:
            end = step + until.steps
        elif until is not None and until.fraction is not None:
            end = step + fraction_steps(until.fraction, total_steps - start)
        elif epochs:
            end = (step // steps_per_epoch + epochs) * steps_per_epoch
        spans.append(Span(phase=phase, start=step, end=end, latest=latest))
        step, latest = end, latest or (until is not None and until.metric is not None)
    return spans


def schedule_warnings(policy: FreezePolicy, *, steps_per_epoch: int, total_steps: int, start: int = 0) -> list[str]:
    """A message for each phase that begins after the end of the run, or of the part of it from `start` on."""
    found = []
    for span in timeline(policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps, start=start):
        if span.start >= total_steps:
            begins, end = ("at the latest after", "may never begin") if span.latest else ("after", "never begins")
            found.append(
                f"The policy does not fit the run: phase `{span.phase.name}` would begin {begins} {span.start} steps, "
                f"but the run has {total_steps} ({steps_per_epoch} per epoch), so it {end}; max_epochs stays as it is."
            )
    return found


def warmup_warnings(policy: FreezePolicy, *, steps_per_epoch: int, total_steps: int, start: int = 0) -> list[str]:
    """A message for each phase that is shorter than its warm-up."""
    found = []
    for span in timeline(policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps, start=start):
        phase, steps = span.phase, min(span.end, total_steps) - span.start
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
