"""The learning rates at which parameter groups train, in every logger."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import LearningRateMonitor
from torch.optim import Optimizer

from frostline.freezing.callback import FreezingSchedule


class AppliedRates(LearningRateMonitor):
    """Lightning's monitor, which logs `lr-SGD/head`, with the policy's factors and warm-ups multiplied in.

    The parameter groups hold the scheduler's rates between two steps; the first group may train at a twentieth of that.
    """

    def __init__(self) -> None:
        super().__init__(logging_interval="step", log_momentum=True)

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        """Nothing: a phase that begins with this batch has not begun."""

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Optimizer
    ) -> None:
        [schedule] = [found for found in trainer.callbacks if isinstance(found, FreezingSchedule)]  # type: ignore[attr-defined]
        own = [group["lr"] for group in optimizer.param_groups]
        try:
            for group, rate in zip(optimizer.param_groups, schedule.applied_rates(), strict=True):
                group["lr"] = rate
            super().on_train_batch_start(trainer)
        finally:
            for group, rate in zip(optimizer.param_groups, own, strict=True):
                group["lr"] = rate
