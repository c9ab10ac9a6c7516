"""The progress bar, without a price that a fast step would notice."""

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar

PER_SECOND = 5


class ThrottledProgressBar(RichProgressBar):
    """Lightning's bar, drawn a few times a second, however many steps that are.

    By default it is drawn up to a hundred times a second, by a thread of its own, and asks the device for the values
    that it shows after every batch, for which a GPU has to finish what it was given.
    """

    def __init__(self) -> None:
        super().__init__(leave=False, refresh_rate=PER_SECOND)
        self._drawn = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._drawn >= 1 / PER_SECOND or batch_idx + 1 == self.total_train_batches:
            self._drawn = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
