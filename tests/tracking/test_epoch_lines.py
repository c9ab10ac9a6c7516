"""Each epoch is a line in the log, with its own values."""

import re
from typing import Any

import lightning
import pytest
import torch
from tests.quiet import quiet_trainer
from torch.utils.data import DataLoader, TensorDataset

from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.tracking.epoch_lines import EpochLines
from frostline.tracking.throughput import Throughput


class Logging(lightning.LightningModule):
    """Learns nothing; logs the number of the epoch, in training and in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("train/loss_epoch", self.current_epoch / 8, on_step=False, on_epoch=True)
        self.log("train/accuracy", self.current_epoch / 8, prog_bar=True, on_step=False, on_epoch=True)
        return self.net(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/accuracy", self.current_epoch / 4, prog_bar=True)
        self.log("val/thousands", 1234.5 + self.current_epoch, prog_bar=True)
        self.log("val/hidden", 1.0)
        self.log("val/loss", 0.5)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def lines_of(caplog: pytest.LogCaptureFixture, *callbacks: lightning.Callback, **options: Any) -> list[str]:
    trainer = quiet_trainer(**options, devices=1, callbacks=[*callbacks, EpochLines()], num_sanity_val_steps=1)
    images = DataLoader(TensorDataset(torch.ones(2, 1)), batch_size=1)
    with caplog.at_level("INFO", logger="frostline"):
        trainer.fit(Logging(), images, images)
    lines = [record.getMessage() for record in caplog.records if record.name == "frostline"]
    return [re.sub(r"[\d.e-]+ s$", "* s", line) for line in lines]


@pytest.mark.parametrize(("limits", "last"), [({"max_epochs": 3}, "/3"), ({"max_epochs": -1, "max_steps": 6}, "")])
def test_each_line_has_its_epoch_s_own_values(
    limits: dict[str, int], last: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The rate of the last step: the schedule has halved it when the epoch ends.
    assert lines_of(caplog, **limits) == [
        f"epoch 1{last} · loss 0 · acc 0.0 % · val acc 0.0 % · val thousands 1,234 · lr 0.1 · * s",
        f"epoch 2{last} · loss 0.12 · acc 12.5 % · val acc 25.0 % · val thousands 1,236 · lr 0.05 · * s",
        f"epoch 3{last} · loss 0.25 · acc 25.0 % · val acc 50.0 % · val thousands 1,236 · lr 0.025 · * s",
    ]


def test_an_epoch_that_is_cut_short_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of(caplog, max_epochs=3, max_steps=3)
    assert lines[1:] == ["epoch 2/3 · loss 0.12 · acc 12.5 % · lr 0.05 · * s"]


def test_an_epoch_without_a_validation_shows_no_earlier_one_s_values(caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of(caplog, max_epochs=3, check_val_every_n_epoch=2)
    assert ["val acc" in line for line in lines] == [False, True, False]


def test_the_monitored_value_is_shown(caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    best = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, monitor="val/loss")
    [line] = lines_of(caplog, best, max_epochs=1, enable_checkpointing=True)
    assert " · val loss 0.5 · " in line


def test_the_rate_is_the_one_that_is_applied_and_the_speed_has_no_raw_key(caplog: pytest.LogCaptureFixture) -> None:
    policy = FreezePolicy.from_dict({"phases": [{"name": "all", "train": ["all"], "lr": {"all": 0.1}}]})
    schedule = FreezingSchedule(policy=policy, attribute="net")
    lines = lines_of(caplog, schedule, Throughput(), max_epochs=1)
    assert re.search(r" · lr 0\.01 · [\d.,]+ img/s · \* s$", lines[-1]), lines
