"""`lr-SGD/…` in every logger is the rate at which a group trains, as `freezing/lr/…` is."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from freezing.tiny import TinyModule, loader, seeded_net, trainer
from lightning.pytorch.loggers import CSVLogger

from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.optim import parameter_groups
from frostline.tracking.applied_rates import AppliedRates

POLICY = FreezePolicy.from_dict(
    {
        "phases": [
            {"name": "a", "train": ["head"], "until": {"steps": 3}},
            {"name": "b", "train": ["conv2", "head"], "lr": {"conv2": 0.05}, "warmup_steps": 2},
        ]
    }
)


class Module(TinyModule):
    def __init__(self) -> None:
        super().__init__(seeded_net())
        self.used: list[dict[str, float]] = []

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(parameter_groups(self.net, resolved=POLICY.resolve(self.net), lr=0.4), momentum=0.9)
        optimizer.register_step_post_hook(
            lambda running, *_: self.used.append({group["name"]: group["lr"] for group in running.param_groups})
        )
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5), "interval": "step"}]


def test_the_logged_rate_is_the_applied_one_in_every_phase(tmp_path: Path) -> None:
    module, logger = Module(), CSVLogger(tmp_path, name="", version="")
    callbacks = [AppliedRates(), FreezingSchedule(policy=POLICY, attribute="net")]
    trainer(callbacks, logger=logger, log_every_n_steps=1, max_steps=6, max_epochs=-1).fit(module, loader())
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = {
        column: {int(row["step"]): float(row[column]) for row in rows if row.get(column)}
        for column in ("lr-SGD/head", "lr-SGD/conv2", "freezing/lr/head", "freezing/lr/conv2", "lr-SGD/head-momentum")
    }
    base = [0.4 * 0.5**step for step in range(6)]
    conv2 = [0.0] * 3 + [base[3] * 0.05 * 0.5, base[4] * 0.05, base[5] * 0.05]
    assert list(logged["lr-SGD/head"].values()) == base
    assert list(logged["lr-SGD/conv2"].values()) == conv2
    for stage in ("head", "conv2"):  # Lightning keeps the one in float32
        assert logged[f"lr-SGD/{stage}"] == pytest.approx(logged[f"freezing/lr/{stage}"], rel=1e-6)
    assert set(logged["lr-SGD/head-momentum"].values()) == {0.9}
    assert [rates["head"] for rates in module.used] == base
    assert [rates["conv2"] for rates in module.used][3:] == conv2[3:]
