"""A line in the log for each epoch: what it came to, at which rate, and how long it took."""

import logging
import time

import lightning
from torch.optim import Optimizer

from frostline.progress_line import SEPARATOR, clock, image_rate
from frostline.tracking.progress_bar import epoch_text, loss_text, schedule_of

log = logging.getLogger("frostline")

FIRST = ("train/loss_epoch", "train/accuracy")  # the order of the others is that of their names


class EpochLines(lightning.Callback):
    """`epoch 3/8 · loss 0.83 · acc 71.2 % · val acc 68.0 % · lr 0.01 · 118 img/s · 4.1 s`, after each epoch.

    The values of the validation, the monitored one and others that are logged with `prog_bar=True` are those of this
    epoch; an epoch without a validation has none. `lr` is the highest learning rate of the epoch's last step. The time
    is that of the whole epoch: training, validation and features.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._epoch: str | None = None
        self._seconds, self._rate = 0.0, 0.0
        self._has_validated = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A fit that is resumed within an epoch calls no on_train_epoch_start.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._log_epoch(trainer)
        self._began, self._rate, self._has_validated = time.perf_counter(), -1.0, False

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Optimizer
    ) -> None:
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if is_last or trainer.global_step + 1 == trainer.max_steps:
            self._rate = _applied_rate(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._has_validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Only stored: Lightning computes what was logged in training after this hook.
        self._epoch, self._seconds = epoch_text(trainer), time.perf_counter() - self._began
        if self._rate < 0:  # the epoch was stopped before its last batch
            self._rate = _applied_rate(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._log_epoch(trainer)

    def _log_epoch(self, trainer: lightning.Trainer) -> None:
        if self._epoch is not None and trainer.is_global_zero:
            log.info("%s", SEPARATOR.join([self._epoch, *self._values(trainer)]))
        self._epoch = None

    def _values(self, trainer: lightning.Trainer) -> list[str]:
        logged = trainer.callback_metrics
        monitor = getattr(trainer.checkpoint_callback, "monitor", None)
        others = {*trainer.progress_bar_metrics, *([monitor] if monitor else [])} - {*FIRST}
        texts = [
            value_text(name, float(logged[name]))
            for name in (*FIRST, *sorted(others))
            if name in logged and (self._has_validated or not name.startswith("val/"))
        ]
        texts.append(f"lr {self._rate:.2g}")
        if "speed/images_per_second" in logged:
            texts.append(image_rate(float(logged["speed/images_per_second"])))
        seconds = f"{self._seconds:.1f} s" if self._seconds < 10 else f"{self._seconds:.0f} s"
        return [*texts, clock(self._seconds) if self._seconds >= 60 else seconds]


def value_text(name: str, value: float) -> str:
    """A logged value as a line has it: ("val/accuracy", 0.68) -> "val acc 68.0 %"."""
    if name == "train/loss_epoch":
        return loss_text(value)
    if name.endswith("/accuracy"):
        return f"{name.removesuffix('accuracy').removeprefix('train/').replace('/', ' ')}acc {100 * value:.1f} %"
    return f"{name.replace('/', ' ')} {f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'}"


def _applied_rate(trainer: lightning.Trainer) -> float:
    """The highest learning rate of the next step, with the policy's factors."""
    schedule = schedule_of(trainer)
    groups = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return max((float(rate) for rate in (groups if schedule is None else schedule.applied_rates())), default=0.0)
