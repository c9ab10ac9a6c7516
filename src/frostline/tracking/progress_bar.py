"""Throttled progress bar; one log line per epoch without a terminal."""

import logging
import sys
import time
from typing import Any

import lightning
import rich
from lightning.pytorch.callbacks import RichProgressBar

PER_SECOND = 5

log = logging.getLogger("frostline")


class ThrottledProgressBar(RichProgressBar):
    """Lightning's bar, drawn at most five times a second.

    By default it is drawn up to a hundred times a second, by a thread of its own, and reads the values it shows after
    each batch, for which it waits for the GPU.
    """

    def __init__(self) -> None:
        # A command's stdout escapes control characters (frostline.commands.terminal), which a bar consists of.
        raw = getattr(sys.stdout, "rich_proxied_file", None)
        super().__init__(leave=False, refresh_rate=PER_SECOND, console_kwargs={"file": raw} if raw else None)
        self._drawn = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._drawn >= 1 / PER_SECOND or batch_idx + 1 == self.total_train_batches:
            self._drawn = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class EpochLines(lightning.Callback):
    """A log line for each epoch, with the values that the bar would show.

    The bar's thread would also sleep up to 0.2 s after the end of each run.
    """

    def __init__(self) -> None:
        self._finished = 0

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Only stored: Lightning computes what was logged in training after this hook; a bar shows the epoch before.
        self._finished = trainer.current_epoch + 1

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._log_epoch(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._log_epoch(trainer)

    def _log_epoch(self, trainer: lightning.Trainer) -> None:
        if self._finished and trainer.is_global_zero:
            last = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
            values = ", ".join(
                f"{name} {value:,.0f}" if abs(value) >= 1000 else f"{name} {value:.4g}"
                for name, value in sorted(trainer.progress_bar_metrics.items())
            )
            log.info("epoch %d%s: %s", self._finished, last, values)
        self._finished = 0


def progress() -> lightning.Callback:
    """The bar in a terminal and in a notebook, lines elsewhere."""
    console = rich.get_console()
    # FORCE_COLOR makes Rich take a file for a terminal; a redrawn bar needs a real one.
    drawn = console.is_jupyter or (console.is_interactive and sys.stdout.isatty())
    return ThrottledProgressBar() if drawn else EpochLines()
