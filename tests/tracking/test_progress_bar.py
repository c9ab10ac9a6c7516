"""The bar costs a fast step nothing."""

import time
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from frostline.tracking.progress_bar import PER_SECOND, ThrottledProgressBar

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:GPU available but not used.*"),
]


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
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, callbacks=[bar],
        enable_model_summary=False,
    )  # fmt: skip
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
