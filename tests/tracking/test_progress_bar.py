"""The line of progress says how far a run is, and costs a fast step nothing."""

import re
import time
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Timer
from tests.quiet import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from frostline.freezing import FreezePolicy, FreezingSchedule, Phase, Until
from frostline.progress_line import DRAWN_PER_SECOND, Part, ProgressLine, fitted
from frostline.tracking.progress_bar import RunProgress


class Recorded(ProgressLine):
    """Shown nowhere; with all the throttling."""

    def __init__(self, *, every: bool) -> None:
        super().__init__()
        self.is_drawn, self.every = True, every
        self.shown: list[str] = []

    def show(self, *parts: Part, at_once: bool = False) -> None:
        if self.is_due() or (at_once and self.is_drawn):
            self._drawn = -1.0 if self.every else time.monotonic()
            self.shown.append(fitted(list(parts), width=200))


class Classifier(lightning.LightningModule):
    """Two layers that learn one label in two; each step takes some seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2))
        self.train_accuracy = MulticlassAccuracy(2, average="micro")
        self.seconds = seconds

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        time.sleep(self.seconds)
        images, labels = batch
        self.train_accuracy.update(torch.zeros_like(labels), labels)
        self.log("train/loss", 0.8349)
        return self.net(images).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.seconds)

    test_step = validation_step

    def on_train_epoch_start(self) -> None:
        self.train_accuracy.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def images(batches: int) -> DataLoader[Any]:
    labels = torch.arange(2 * batches) % 2
    return DataLoader(TensorDataset(torch.ones(2 * batches, 1), labels), batch_size=2)


def run(
    *, seconds: float, batches: int, every: bool = True, callbacks: tuple[Any, ...] = (), **options: Any
) -> tuple[list[str], float]:
    """What the line showed in a fit and a test, and the seconds of both."""
    bar = RunProgress()
    bar.line = Recorded(every=every)
    trainer = quiet_trainer(devices=1, callbacks=[bar, *callbacks], enable_progress_bar=True, **options)
    began, module = time.monotonic(), Classifier(seconds)
    trainer.fit(module, images(batches), images(2))
    trainer.test(module, images(2), verbose=False)
    return bar.line.shown, time.monotonic() - began


def test_every_part_of_the_line_in_every_part_of_a_run() -> None:
    phases = (
        Phase(name="first", train=("1",), until=Until(epochs=1)),
        Phase(name="second", train=("0", "1")),
    )
    schedule = FreezingSchedule(policy=FreezePolicy(phases=phases), attribute="net")
    shown, _ = run(seconds=0.02, batches=4, max_epochs=2, callbacks=(schedule,))
    expected = [
        *("validation · 1/2 · * img/s · 0:00 left", "validation · 2/2 · * img/s · 0:00 left"),
        "epoch 1/2 · 1 unfrozen · 1/4 · loss 0.83 · acc 50 %",
        *(f"epoch 1/2 · 1 unfrozen · {done}/4 · loss 0.83 · acc 50 % · * img/s · 0:00 left" for done in (2, 3, 4)),
        *(f"epoch 1/2 · validation · {done}/2 · * img/s · 0:00 left" for done in (1, 2)),
        "epoch 2/2 · all unfrozen · 1/4 · loss 0.83 · acc 50 %",
        *(f"epoch 2/2 · all unfrozen · {done}/4 · loss 0.83 · acc 50 % · * img/s · 0:00 left" for done in (2, 3, 4)),
        *(f"epoch 2/2 · validation · {done}/2 · * img/s · 0:00 left" for done in (1, 2)),
        *(f"test · {done}/2 · * img/s · 0:00 left" for done in (1, 2)),
    ]
    assert [re.sub(r"[\d,.]+ img/s", "* img/s", line) for line in shown] == expected


def test_the_time_left_and_the_speed_are_those_of_the_steps_so_far() -> None:
    shown, _ = run(seconds=0.25, batches=4, max_epochs=3, num_sanity_val_steps=0, limit_val_batches=0)
    last_of_first = next(line for line in shown if " 4/4 " in line)
    found = re.search(r" · ([\d.]+) img/s · 0:0(\d) left$", last_of_first)
    assert found, shown
    assert 6 < float(found[1]) <= 8  # 2 images in a quarter of a second
    assert found[2] == "2"  # 8 steps are to come


def test_a_time_limit_is_an_end_as_well() -> None:
    timer = Timer(duration={"seconds": 100})
    shown, _ = run(seconds=0.0, batches=3, max_epochs=-1, max_steps=10**7, limit_val_batches=0, limit_train_batches=3,
                   callbacks=(timer, *[Stop()]))  # fmt: skip
    assert re.search(r"^epoch 1 · .* · 1:40 left$|^epoch 1 · .* · 1:39 left$", shown[2]), shown


class Stop(lightning.Callback):
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = True


def test_fast_steps_are_drawn_a_few_times_a_second_and_the_last_one_always() -> None:
    shown, took = run(seconds=0.0, batches=300, every=False, max_epochs=1, limit_val_batches=0)
    assert len(shown) <= DRAWN_PER_SECOND * took + 4
    assert len(shown) < 100
    assert any(" 300/300 " in line for line in shown)


def test_slow_steps_are_all_drawn() -> None:
    shown, _ = run(seconds=1.05 / DRAWN_PER_SECOND, batches=4, every=False, max_epochs=1, limit_val_batches=0)
    assert [done for done in (1, 2, 3, 4) if any(f" {done}/4 " in line for line in shown)] == [1, 2, 3, 4]


def test_other_processes_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", False)
    shown, _ = run(seconds=0.0, batches=4, max_epochs=1)
    assert shown == []
