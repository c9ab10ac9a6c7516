"""A callback of your own: any lightning.pytorch.Callback."""

from typing import Any

import lightning.pytorch as pl
import torch


class WeightNorm(pl.Callback):
    """Logs the norm of all weights that train."""

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            trained = [p.detach().float().norm() for p in module.parameters() if p.requires_grad]
            module.log("weights/norm", torch.stack(trained).norm())
