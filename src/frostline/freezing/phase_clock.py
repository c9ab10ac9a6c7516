"""When a phase of a fit ends: its counters, the metric that it waits for, and Lightning's EarlyStopping."""

import logging
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
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
            spans = self._timeline(trainer)
            for message in schedule_warnings(spans, total_steps=int(steps)):
                # No error: this fit may be followed by a longer one, or be resumed.
                warnings.warn(message, stacklevel=3)
            for message in warmup_warnings(spans):
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

    def end_fit(self, trainer: "pl.Trainer") -> None:
        """Report the phases that never began: the run was too short, or stopped early."""
        missing = [f"`{phase.name}`" for phase in self.policy.phases[self.state.index + 1 :]]
        if self.has_begun and missing and trainer.is_global_zero:
            log.warning(
                "The run ended after %d steps in phase `%s`; never begun: %s.",
                trainer.global_step,
                self.phase.name,
                ", ".join(missing),
            )

    def latest_end(self, trainer: "pl.Trainer") -> int:
        """The optimizer step at which the current phase ends, at the latest; `sys.maxsize` where the run has no end."""
        span = self._timeline(trainer)[self.state.index]
        return min(span.end, int(min(trainer.estimated_stepping_batches, sys.maxsize)))

    def warmup_steps(self, trainer: "pl.Trainer", index: int) -> int:
        """Optimizer steps of the warm-up of a phase that has begun; see `Span.warmup_steps`."""
        return self._timeline(trainer)[index].warmup_steps if self.policy.phases[index].warmup_steps else 0

    def _timeline(self, trainer: "pl.Trainer") -> list["Span"]:
        total = int(min(trainer.estimated_stepping_batches, sys.maxsize))
        per_epoch = internals.steps_per_epoch(trainer)
        starts = [step for step, _ in self.starts(trainer)]
        return timeline(self.policy, steps_per_epoch=per_epoch, total_steps=total, starts=starts)

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
    """A phase's optimizer steps in a run, up to `end`; at the `latest`, if an earlier phase waits for a metric.

    warmup_steps: of the phase, but no more than it has steps, so that its rates reach their full value in it.
    """

    phase: Phase
    start: int
    end: int
    latest: bool
    warmup_steps: int


def timeline(
    policy: FreezePolicy, *, steps_per_epoch: int, total_steps: int, starts: Sequence[int] = (0,)
) -> list[Span]:
    """When each phase begins, as far as it can be known. One due at `total_steps` or later never begins.

    Args:
        starts: the step at which each phase so far began; fractions are of the steps from the first one on.
    """
    spans: list[Span] = []
    step, latest = starts[0], False
    for index, phase in enumerate(policy.phases):
        if index < len(starts):
            step, latest = starts[index], False
        until, end = phase.until, total_steps
        epochs = until and (until.epochs or until.max_epochs)
        if until is not None and until.steps is not None:
            end = step + until.steps
        elif until is not None and until.fraction is not None:
            end = step + fraction_steps(until.fraction, total_steps - starts[0])
        elif epochs:
            end = (step // steps_per_epoch + epochs) * steps_per_epoch
        steps = min(end, total_steps) - step
        warmup_steps = min(phase.warmup_steps, steps) if steps > 0 else phase.warmup_steps
        spans.append(Span(phase=phase, start=step, end=end, latest=latest, warmup_steps=warmup_steps))
        step, latest = end, latest or (until is not None and until.metric is not None)
    return spans


def schedule_warnings(spans: Sequence[Span], *, total_steps: int, sure: bool = False) -> list[str]:
    """A message for each phase that begins after the end of the run.

    Args:
        sure: only for those that never begin; without, also for those that may begin if a metric stops improving.
    """
    found = []
    for span in spans:
        if span.start >= total_steps and not (sure and span.latest):
            begins, end = ("at the latest after", "may never begin") if span.latest else ("after", "never begins")
            found.append(
                f"The policy does not fit the run: phase `{span.phase.name}` would begin {begins} {span.start} steps, "
                f"but the run has {total_steps}, so it {end}. Train longer, shorten the phases before it, or give them "
                "`until: {fraction: …}`, which scales with the run."
            )
    return found


def warmup_warnings(spans: Sequence[Span]) -> list[str]:
    """A message for each phase whose warm-up is shortened to fit into it; none for those that never begin."""
    return [
        f"Phase `{span.phase.name}` warms up in {span.warmup_steps} steps instead of warmup_steps="
        f"{span.phase.warmup_steps}: it lasts no longer."
        for span in spans
        if span.warmup_steps < span.phase.warmup_steps
    ]


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
