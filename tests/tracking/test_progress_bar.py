"""The bar costs a fast step nothing; where it would leave shreds, each epoch is a line."""

import time
from typing import Any

import lightning
import pytest
import torch
from rich.console import Console
from tests.quiet import quiet_trainer
from torch.utils.data import DataLoader, TensorDataset

from frostline.tracking.progress_bar import PER_SECOND, EpochLines, ThrottledProgressBar, progress


class Slow(lightning.LightningModule):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seconds = seconds

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.layer(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watched(ThrottledProgressBar):
    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def _update_metrics(self, trainer: Any, pl_module: Any) -> None:
        self.shown.append(trainer.global_step)
        super()._update_metrics(trainer, pl_module)


def shown(*, seconds: float, steps: int) -> tuple[list[int], float]:
    bar = Watched()
    trainer = quiet_trainer(max_epochs=1, devices=1, callbacks=[bar], enable_progress_bar=True)
    began = time.monotonic()
    trainer.fit(Slow(seconds), DataLoader(TensorDataset(torch.ones(steps, 1)), batch_size=1))
    return bar.shown, time.monotonic() - began


def test_fast_steps_are_drawn_a_few_times_a_second_and_the_last_one_always() -> None:
    steps, took = shown(seconds=0.0, steps=300)
    assert len(steps) <= PER_SECOND * took + 4
    assert len(steps) < 100
    assert steps[-1] == 300


def test_slow_steps_are_all_drawn() -> None:
    steps, _ = shown(seconds=1.05 / PER_SECOND, steps=4)
    assert {1, 2, 3, 4} <= set(steps)


class Logging(lightning.LightningModule):
    """Learns nothing; logs the number of the epoch, in training and in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("train/epoch", float(self.current_epoch), prog_bar=True, on_step=False, on_epoch=True)
        return self.layer(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/thousands", 1234.5 + self.current_epoch, prog_bar=True)
        self.log("val/hidden", 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("limits", "last"), [({"max_epochs": 3}, " of 3"), ({"max_epochs": -1, "max_steps": 5}, "")])
def test_lines_tell_each_epoch_s_own_values(
    limits: dict[str, int], last: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = quiet_trainer(**limits, devices=1, callbacks=[EpochLines()], num_sanity_val_steps=0)
    images = DataLoader(TensorDataset(torch.ones(2, 1)), batch_size=1)
    with caplog.at_level("INFO", logger="frostline"):
        trainer.fit(Logging(), images, images)
    lines = [record.getMessage() for record in caplog.records if record.name == "frostline"]
    expected = [
        f"epoch {epoch + 1}{last}: train/epoch {epoch}, val/thousands {1234.5 + epoch:,.0f}" for epoch in range(3)
    ]
    assert lines == expected


@pytest.mark.parametrize("output", ["terminal", "pipe", "colours forced into a pipe", "dumb terminal"])
def test_a_bar_is_for_a_terminal(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, forced = output.endswith("terminal"), output.startswith("colours")
    console = Console(force_terminal=terminal or forced or None, force_interactive=output == "terminal" or forced)
    monkeypatch.setattr("rich._console", console)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert isinstance(progress(), ThrottledProgressBar) is (output == "terminal")
