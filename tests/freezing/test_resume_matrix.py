"""Promise 4: a run resumed from any checkpoint is the uninterrupted run, bit for bit.

Every row of the matrix is one optimizer, scheduler and policy; its columns are checkpoints of every kind: after each
optimizer step (the last batch of a phase and inside metric phases among them), after each validation, and at each
epoch's end: 24 a row, of which the default run takes 8. Order of the data, augmentation and dropout are in play; they
are `ExactResume`'s part.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from freezing.tiny import CLASSES, TinyModule, seeded_net, trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EMAWeightAveraging
from scripts.freezing.resume_matrix import same
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim import lr_scheduler as schedulers

from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation
from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.optim import parameter_groups
from frostline.resume import ExactResume

EPOCHS, BATCHES = 4, 4
TOTAL = EPOCHS * BATCHES

HEAD, TOP = {"name": "head", "train": ["head"]}, {"name": "top", "train": ["conv2", "bn2", "head"], "warmup_steps": 3}
ALL = {"name": "all", "train": ["all"], "lr_decay": 0.7, "warmup_steps": 4}
AGAIN = {"name": "head again", "train": ["head"], "lr": {"head": 0.1}}
METRIC = {"metric": "val/loss", "mode": "min", "patience": 1, "min_delta": 0.05, "max_epochs": 2}

POLICIES: dict[str, dict[str, Any]] = {
    "epochs": {"phases": [{**HEAD, "until": {"epochs": 1}}, {**TOP, "until": {"epochs": 1}}, ALL]},
    "steps": {"phases": [{**HEAD, "until": {"steps": 3}}, {**TOP, "until": {"steps": 5}}, ALL]},
    "again": {"phases": [{**HEAD, "until": {"steps": 2}}, {**ALL, "until": {"fraction": 0.5}}, AGAIN]},
    "metric": {"phases": [{**HEAD, "until": METRIC}, {**TOP, "until": {"epochs": 1}}, ALL]},
    "recalibrate": {"phases": [{**HEAD, "until": {"steps": 6}}, ALL], "batch_norm": "recalibrate"},
    "drift": {"phases": [{**HEAD, "until": {"steps": 6}}, ALL], "batch_norm": "drift"},
}

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda groups: SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adamw": lambda groups: AdamW(groups, lr=0.01, weight_decay=0.1),
    "adam": lambda groups: Adam(groups, lr=0.01, amsgrad=True),
    "rmsprop": lambda groups: RMSprop(groups, lr=0.005, momentum=0.5, centered=True),
}


def stepwise(scheduler: Any) -> dict[str, Any]:
    return {"scheduler": scheduler, "interval": "step"}


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "onecycle": lambda optimizer: stepwise(schedulers.OneCycleLR(optimizer, max_lr=0.1, total_steps=TOTAL)),
    "lambda": lambda optimizer: stepwise(schedulers.LambdaLR(optimizer, lambda step: 1 / (1 + step))),
    "exponential": lambda optimizer: stepwise(schedulers.ExponentialLR(optimizer, 0.9)),
    "cosine": lambda optimizer: stepwise(schedulers.CosineAnnealingLR(optimizer, 6)),
    "restarts": lambda optimizer: stepwise(schedulers.CosineAnnealingWarmRestarts(optimizer, 5)),
    "cyclic": lambda optimizer: stepwise(schedulers.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3)),
    "sequential": lambda optimizer: stepwise(
        schedulers.SequentialLR(
            optimizer,
            [schedulers.LinearLR(optimizer, 0.1, 1.0, 4), schedulers.CosineAnnealingLR(optimizer, 12)],
            milestones=[4],
        )
    ),
    "step_by_epoch": lambda optimizer: {"scheduler": schedulers.StepLR(optimizer, 1, 0.5), "interval": "epoch"},
    "plateau": lambda optimizer: {
        "scheduler": schedulers.ReduceLROnPlateau(optimizer, patience=0, threshold=0.05),
        "monitor": "val/loss",
    },
}

# Each scheduler and each policy several times, each optimizer with several of both.
ROWS = [
    ("sgd", "onecycle", "steps"),
    ("sgd", "lambda", "epochs"),
    ("adamw", "exponential", "metric"),
    ("adamw", "cosine", "again"),
    ("adam", "restarts", "steps"),
    ("rmsprop", "sequential", "recalibrate"),
    ("sgd", "step_by_epoch", "again"),
    ("adamw", "plateau", "epochs"),
    ("sgd", "cyclic", "drift"),
    ("adam", "onecycle", "metric"),
]


class Grouped(TinyModule):
    """Parameter groups by frostline.optim, as per-stage factors and warm-ups need them."""

    def __init__(self, *, policy: FreezePolicy, optimizer: Any, scheduler: Any) -> None:
        super().__init__(seeded_net(dropout=0.3), optimizer, scheduler)
        self.policy = policy

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.float() / 255)

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.net, resolved=self.policy.resolve(self.net), lr=0.01)
        optimizer = self.make_optimizer(groups)
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}


class Watched(Grouped):
    """Notes the learning rates within each step, where the factors of phase and warm-up are in."""

    def __init__(self, *, used: dict[int, list[float]], **settings: Any) -> None:
        super().__init__(**settings)
        self.used = used

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        made["optimizer"].register_step_post_hook(self.note)
        return made

    def note(self, optimizer: Any, *_: Any) -> None:
        self.used[self.trainer.global_step] = [float(group["lr"]) for group in optimizer.param_groups]


@dataclass
class Result:
    state: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    rates: dict[int, list[float]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class Interrupted(Exception):
    pass


class InterruptAfter(Callback):
    """Dies after a step, having saved."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise Interrupted


def differing(whole: Result, again: Result) -> list[str]:
    differs = [key for key in ("state", "optimizer", "history") if not same(getattr(whole, key), getattr(again, key))]
    rates_differ = any(whole.rates[step] != rates for step, rates in again.rates.items())
    return differs + (["rates"] if rates_differ else [])


def run(row: tuple[str, str, str], *callbacks: Any, plugins: Any = (), **fit: Any) -> Result:
    optimizer, scheduler, policy = OPTIMIZERS[row[0]], SCHEDULERS[row[1]], FreezePolicy.from_dict(POLICIES[row[2]])
    schedule = FreezingSchedule(policy=policy, attribute="net")
    used: dict[int, list[float]] = {}
    module = Watched(policy=policy, optimizer=optimizer, scheduler=scheduler, used=used)
    # Another process has another random state when it takes up the run.
    torch.manual_seed(1000 if fit else 7)
    data = ImageDataModule(
        source=Synthetic(length=17, val_length=5, classes=CLASSES, image_size=8, seed=1),
        image_size=8,
        batch_size=4,
        augment=Augmentation(name="standard"),
        loading=Loading(workers=0),
        seed=3,
    )
    ours = trainer(
        [schedule, ExactResume(), *callbacks],
        max_epochs=EPOCHS,
        use_distributed_sampler=False,
        plugins=list(plugins),
        enable_checkpointing=any(isinstance(entry, Checkpoint) for entry in callbacks),
    )

    torch.manual_seed(1001 if fit else 8)
    with contextlib.suppress(Interrupted):
        ours.fit(module, data, weights_only=True, **fit)
    return Result(
        state={name: value.clone() for name, value in module.net.state_dict().items()},
        optimizer=ours.optimizers[0].state_dict(),
        rates=used,
        history=schedule.history,
    )


class SaveEverywhere(Checkpoint):
    """A checkpoint in every place where Lightning's own callbacks write one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: Any, place: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step:02d}-{place}.ckpt")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.save(trainer, "step")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer, "validation_end")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer, "epoch_end")


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_a_resumed_run_is_the_uninterrupted_run(row, every, tmp_path):
    whole = run(row, SaveEverywhere(tmp_path))
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == TOTAL + 2 * EPOCHS
    assert len(whole.history) == len(POLICIES[row[2]]["phases"]), "the run should see every phase"
    wrong = {}
    for path in paths[::every]:
        if path.stem == f"{TOTAL}-epoch_end":
            # The run is over, and Lightning does not start again for a scheduler's last step.
            continue
        again = run(row, ckpt_path=path)
        if differs := differing(whole, again):
            wrong[path.stem] = differs
    assert wrong == {}


@pytest.mark.parametrize("stops", [(3, 4), (4, 8, 12), (1, 2, 3, 9, 10)], ids=str)
@pytest.mark.parametrize("row", [ROWS[0], ROWS[2], ROWS[3]], ids="-".join)
def test_chains_of_interruptions_end_where_the_uninterrupted_run_ends(row, stops, tmp_path):
    whole = run(row)
    again: dict[str, Path] = {}
    for stop in stops:
        run(row, InterruptAfter(stop, tmp_path / f"{stop}.ckpt"), **again)
        again = {"ckpt_path": tmp_path / f"{stop}.ckpt"}
    assert differing(whole, run(row, **again)) == []


def half_precision() -> pl.plugins.MixedPrecision:
    """`16-mixed`, with a scaler that grows every third step, so that its state matters."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    return pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)


# The scaler's state is taken up; the moving average's checkpoint has the average for weights, and equal frozen ones.
@pytest.mark.parametrize("step", [2, 4, 9])
@pytest.mark.parametrize(
    ("row", "plugins", "callbacks"),
    [(ROWS[1], [half_precision], []), (ROWS[0], [], [lambda: EMAWeightAveraging(decay=0.9)])],
    ids=["half precision", "moving average"],
)
def test_a_resume_with_further_state_in_the_checkpoint(row, plugins, callbacks, step, tmp_path):
    def again(*more: Any, **fit: Any) -> Result:
        return run(row, *(make() for make in callbacks), *more, plugins=[make() for make in plugins], **fit)

    whole = again()
    again(InterruptAfter(step, tmp_path / "a.ckpt"))
    assert differing(whole, again(ckpt_path=tmp_path / "a.ckpt")) == []
