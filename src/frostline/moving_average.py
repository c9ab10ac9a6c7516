"""An exponential moving average (EMA) of a run's weights, exact on frozen tensors and over a resume."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

DECAY = 0.999


def moving_average(averaged: Tensor, current: Tensor, updates: Tensor) -> Tensor:
    """The average after another step: min(0.999, (1 + n) / (10 + n)) of it is the average after the n steps before.

    Without the warm-up, which is TensorFlow's, a run of a few hundred steps would keep much of its first weights.
    """
    kept = ((1 + updates) / (10 + updates)).clamp(max=DECAY)
    return averaged + (1 - kept) * (current - averaged)


class MovingAverage(WeightAveraging):
    """Averages weights and batch-norm statistics after each optimizer step; validation, checkpoints and what follows
    the fit have the average, training goes on with the weights themselves, which checkpoints hold as well.

    Lightning's callback is used within a fit only: in a test it would put the weights themselves in place of the
    checkpoint's average.

    Raises:
        ValueError: the strategy shards the weights.
    """

    def __init__(self) -> None:
        super().__init__(avg_fn=moving_average)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(f"averaging: ema does not run under {type(trainer.strategy).__name__}; use averaging=none")
        self._device = trainer.strategy.root_device  # the module comes there after this hook
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._take_first_ranks_statistics(trainer)
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "fit":
            super().on_validation_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Not only in `on_train_end`, which a run that is resumed at its end does not reach.
        self._take_first_ranks_statistics(trainer)
        self._copy_average_to_current(pl_module)

    def _take_first_ranks_statistics(self, trainer: lightning.Trainer) -> None:
        """The ranks' batch norms see different images, and a checkpoint has the first rank's statistics."""
        if trainer.world_size > 1 and self._average_model is not None:
            for buffer in self._average_model.module.buffers():
                torch.distributed.broadcast(buffer, src=0)
