"""When a phase of a fit ends: the progress, the metric that the phase waits for, and Lightning's EarlyStopping."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from frostline.freezing import lightning_internals as internals
from frostline.freezing.policy import FreezePolicy
from frostline.freezing.progress import Progress, schedule_warnings, warmup_warnings

log = logging.getLogger("frostline.freezing")


class PhaseClock:
    """Tracks the progress of a fit through a policy: counts evaluations, finds the end of a phase, enters the next."""

    def __init__(self, policy: FreezePolicy) -> None:
        self.policy = policy
        self.progress = Progress()
        self._validation_left = False

    @property
    def index(self) -> int:
        """The current phase's place in the policy."""
        return self.progress.index

    @property
    def has_begun(self) -> bool:
        """Whether the first phase has begun."""
        return bool(self.progress.starts)

    def starts(self, trainer: "pl.Trainer") -> list[tuple[int, int]]:
        """Step and epoch at which each phase so far began; before the first one the present ones."""
        return self.progress.starts or [(trainer.global_step, trainer.current_epoch)]

    def load(self, trainer: "pl.Trainer", state: Mapping[str, Any], loops: dict[str, Any]) -> None:
        """Continue where a checkpoint was written.

        Args:
            state: of `Progress.to_dict`.
            loops: `checkpoint["loops"]["fit_loop"]`; changed in place.
        """
        self.progress = Progress.from_dict(state)
        internals.check_resume(trainer, entered=len(self.progress.starts))
        until = self.policy.phases[self.index].until
        if until is not None and until.metric is not None:
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
        until = self.policy.phases[self.index].until
        total_steps = trainer.estimated_stepping_batches if until and until.fraction else float("inf")
        epoch = trainer.current_epoch + epochs_ahead
        return self.progress.due(self.policy, step=trainer.global_step, epoch=epoch, total_steps=total_steps)

    def advance(self, trainer: "pl.Trainer") -> str:
        """Enter the first phase, or all next ones that are due; the reason."""
        step, epoch = trainer.global_step, trainer.current_epoch
        if not self.has_begun:
            self.progress.begin(0, step=step, epoch=epoch)
            return "start"
        reason = ""
        while (due := self.due(trainer)) is not None:
            self.progress.begin(self.index + 1, step=step, epoch=epoch)
            reason = due
        return reason

    def after_validation(self, trainer: "pl.Trainer") -> None:
        """Count an evaluation."""
        phase = self.policy.phases[self.index]
        if phase.until is not None and phase.until.metric is not None:
            value = internals.reduced_metric(trainer, phase.until.metric, phase=phase.name)
            self.progress.evaluate(phase.until, value, step=trainer.global_step)
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
