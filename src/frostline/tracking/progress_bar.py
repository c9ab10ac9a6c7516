"""The line of progress of a run in a terminal: in training, validation and test."""

import math
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar, Timer
from torch import Tensor

from frostline.freezing.callback import FreezingSchedule
from frostline.freezing.lightning_internals import run_length
from frostline.freezing.report import unfrozen_text
from frostline.progress_line import Part, ProgressLine, clock, image_rate, of_total

# The ranks of the parts: what is left out last in a narrow terminal comes first.
EPOCH, DONE, LEFT, LOSS, ACCURACY, PHASE, SPEED = range(7)


class RunProgress(ProgressBar):
    """`epoch 3/8 · layer4 unfrozen · 42/120 · loss 0.83 · acc 71 % · 118 img/s · 1:32 left`, in a terminal.

    Loss and accuracy are those of this process: the loss of the last batch, the accuracy of the epoch so far. The time
    left is that of the whole training, at the speed since the current phase began, or up to `max_time`. Reading a value
    waits for the GPU, so nothing is read more often than the line is drawn.

    Attributes:
        line: the line, for other work of the run to show its progress on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.line = ProgressLine()
        self._phase: int | None = None
        self._unfrozen = ""
        self._steps = 0
        self._phase_began, self._step_then = 0.0, 0
        self._counted_from, self._images = 0.0, 0

    def disable(self) -> None:
        self.line.is_drawn = False

    def enable(self) -> None:
        self.line.is_drawn = self.trainer.is_global_zero

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._phase, self._steps = None, run_length(trainer)[0]
        self._count_again()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._count_again()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[-1])
        schedule = schedule_of(trainer)
        phase = 0 if schedule is None else schedule.phase.index
        if phase != self._phase:  # its first batch may have waited for features
            self._phase, self._phase_began, self._step_then = phase, time.monotonic(), trainer.global_step
            self._unfrozen = ""
            if schedule is not None:
                self._unfrozen = unfrozen_text(schedule.network, schedule.resolved, schedule.phase)
            self._count_again()
        is_last = batch_idx + 1 == self.total_train_batches
        if self.line.is_due() or is_last:
            self.line.show(*self._training(trainer, pl_module, batch_idx + 1), at_once=is_last)

    def _training(self, trainer: lightning.Trainer, module: lightning.LightningModule, done: int) -> list[Part]:
        loss, accuracy = trainer.callback_metrics.get("train/loss"), _accuracy_so_far(module)
        left, rate = self._seconds_left(trainer), self._image_rate(trainer.world_size)
        texts = {
            EPOCH: epoch_text(trainer),
            PHASE: self._unfrozen,
            DONE: of_total(done, self.total_train_batches),
            LOSS: None if loss is None else loss_text(loss.item()),
            ACCURACY: None if accuracy is None else f"acc {100 * accuracy:.0f} %",
            SPEED: None if rate is None else image_rate(rate),
            LEFT: None if left is None else f"{clock(left)} left",
        }
        return [Part(text, rank) for rank, text in texts.items() if text]

    def _count_again(self) -> None:
        self._counted_from, self._images = time.monotonic(), 0

    def _image_rate(self, processes: int) -> float | None:
        return processes * self._images / max(time.monotonic() - self._counted_from, 1e-9) if self._images else None

    def _seconds_left(self, trainer: lightning.Trainer) -> float | None:
        """Of the training; None before the second step of a phase, and where neither steps nor time are limited."""
        bounds = [timer.time_remaining() for timer in trainer.callbacks if isinstance(timer, Timer)]  # type: ignore[attr-defined]
        done = trainer.global_step - self._step_then
        if done and self._steps < math.inf:
            bounds.append((self._steps - trainer.global_step) * (time.monotonic() - self._phase_began) / done)
        return min((max(bound, 0.0) for bound in bounds if bound is not None), default=None)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._count_again()

    on_test_start = on_validation_start

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.reset_dataloader_idx_tracker()
        self._count_again()

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)
        self._images += len(batch[-1])
        tests, done = trainer.testing, batch_idx + 1
        total = self.total_test_batches_current_dataloader if tests else self.total_val_batches_current_dataloader
        if not self.line.is_due() and done != total:
            return
        passed = time.monotonic() - self._counted_from
        parts = [] if tests or trainer.sanity_checking else [Part(epoch_text(trainer), EPOCH)]
        parts += [Part("test" if tests else "validation", DONE), Part(of_total(done, total), DONE)]
        parts.append(Part(image_rate(self._image_rate(trainer.world_size) or 0.0), SPEED))
        if total < math.inf:
            parts.append(Part(f"{clock((total - done) * passed / done)} left", LEFT))
        self.line.show(*parts, at_once=done == total)

    on_test_batch_end = on_validation_batch_end

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.line.clear()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.line.clear()


def epoch_text(trainer: lightning.Trainer) -> str:
    """ "epoch 3/8", of the current epoch."""
    last = trainer.max_epochs
    return f"epoch {of_total(trainer.current_epoch + 1, last if last is not None and last > 0 else math.inf)}"


def loss_text(loss: float) -> str:
    """ "loss 0.83"; a small one with two digits that count."""
    return f"loss {loss:,.2f}" if loss >= 0.1 else f"loss {loss:.2g}"


def schedule_of(trainer: lightning.Trainer) -> FreezingSchedule | None:
    """The callback that changes the phases, if the trainer has one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((found for found in callbacks if isinstance(found, FreezingSchedule)), None)


def _accuracy_so_far(module: lightning.LightningModule) -> float | None:
    """The share of this process's training images of the epoch that were classified correctly.

    From the counts of the classifier's metric: its `compute` would wait for the other processes, and keep the result.
    """
    metric = getattr(module, "train_accuracy", None)
    counts = [getattr(metric, name, None) for name in ("tp", "fn")]
    right, wrong = (float(count.sum()) if isinstance(count, Tensor) else 0.0 for count in counts)
    return right / (right + wrong) if right + wrong else None
