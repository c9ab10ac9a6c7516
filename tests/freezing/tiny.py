"""Networks, modules, data and fits small enough to train in milliseconds."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from frostline.freezing import FreezePolicy, FreezingSchedule
from tests.quiet import quiet_trainer

CLASSES, SIDE = 3, 8


class TinyNet(nn.Module):
    """Two convolutions, two batch norms, dropout and a head: 10 parameters, 16 tensors."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(5)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.bn1(self.conv1(images)))
        features = torch.relu(self.bn2(self.conv2(features)))
        return self.head(self.dropout(features.mean((2, 3))))


class TinyModule(pl.LightningModule):
    """A plain LightningModule without frostline."""

    def __init__(self, network: nn.Module | None = None, optimizer: Any = None, scheduler: Any = None) -> None:
        super().__init__()
        self.net = network if network is not None else seeded_net()
        self.make_optimizer = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
        self.make_scheduler = scheduler

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(list(self.parameters()))
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}


def seeded_net(dropout: float = 0.0) -> TinyNet:
    torch.manual_seed(0)
    net = TinyNet(dropout)
    with torch.no_grad():
        # Statistics that differ from those of the data, so that every change shows.
        for norm in (net.bn1, net.bn2):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2.0)
            norm.num_batches_tracked.fill_(7)
    return net


def images(count: int, seed: int = 1, side: int = SIDE) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(count, 3, side, side, generator=generator) + 0.5,
        torch.randint(0, CLASSES, (count,), generator=generator),
    )


def loader(batches: int = 4, batch_size: int = 4, seed: int = 1) -> DataLoader:
    return DataLoader(images(batches * batch_size, seed), batch_size=batch_size)


def trainer(callbacks: list[Any], **settings: Any) -> pl.Trainer:
    return quiet_trainer(callbacks=callbacks, **settings)


class Validates(TinyModule):
    """Logs a validation loss that is a function of the optimizer step; in the sanity check one that would be best.

    validated: the optimizer step of each validation batch.
    """

    def __init__(self, value: Callable[[int], float]) -> None:
        super().__init__()
        self.value, self.validated = value, []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        step = self.trainer.global_step
        self.validated.append(step)
        self.log("val/loss", torch.tensor(-1e9 if self.trainer.sanity_checking else float(self.value(step))))


def phases(*, until: Any, count: int = 3, **region: str) -> FreezePolicy:
    """The last `count` of `head`, `middle` (conv2 and head) and `all`; all but the last end by `until`."""
    names = [("head", ["head"]), ("middle", ["conv2", "head"]), ("all", ["all"])][-count:]
    timed = [{"name": name, "train": train, "until": until} for name, train in names]
    del timed[-1]["until"]
    return FreezePolicy.from_dict({"phases": timed, **region})


def metric(**changes: Any) -> dict[str, Any]:
    return {"metric": "val/loss", "mode": "min", "patience": 2, "max_epochs": 6, **changes}


def fit(
    policy: Any,
    *,
    module: Any = None,
    batches: int = 4,
    attribute: str | None = "net",
    callbacks: Sequence[Any] = (),
    before: Sequence[Any] = (),
    options: dict[str, Any] | None = None,
    resume: Any = None,
    **settings: Any,
) -> FreezingSchedule:
    """The schedule of a finished fit of 4 epochs; `before` and `callbacks` stand around it in the trainer's list."""
    schedule = FreezingSchedule(policy=policy, attribute=attribute, **(options or {}))
    ours = trainer([*before, schedule, *callbacks], **{"max_epochs": 4, **settings})
    more = {} if resume is None else {"ckpt_path": resume, "weights_only": True}
    ours.fit(TinyModule() if module is None else module, loader(batches), loader(2), **more)
    return schedule


def starts(schedule: FreezingSchedule) -> list[tuple[str, int, int]]:
    """Name, first optimizer step and epoch of each phase."""
    return [(entry["phase"], entry["step"], entry["epoch"]) for entry in schedule.history]
