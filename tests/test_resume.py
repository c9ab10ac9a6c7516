"""A resumed run is the uninterrupted run, bit for bit."""

import random
import warnings
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from frostline.data.datamodule import ImageDataModule, Loading
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation
from frostline.resume import ExactResume, random_state, restore_random_state

pytestmark = [
    # Zero workers are chosen here, on purpose.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    # No logger is asked for.
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    # Lightning sees the folder of the run that is being resumed.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # torch 2.15 deprecates what Lightning 2.6.6 still calls.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

BATCHES = 5  # 21 images, batches of 4: one image is dropped
EPOCHS = 3


class Net(lightning.LightningModule):
    """Batch norm, dropout and momentum: each shows a random state, a sample or a step that differs."""

    def __init__(self, plateau: bool = False) -> None:
        super().__init__()
        self.plateau = plateau
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(3)
        )
        self.net(torch.zeros(2, 3, 16, 16))
        self.seen: list[float] = []
        self.draws: list[float] = []
        self.validations: list[int] = []

    def training_step(self, batch, batch_idx):
        images, targets = batch
        images = images.float() / 255
        self.seen.append(images.double().sum().item())
        self.draws.append(random.random() + np.random.random())
        return nn.functional.cross_entropy(self.net(images), targets)

    def validation_step(self, batch, batch_idx):
        torch.rand(1)  # must not matter to training
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0].float() / 255), batch[1]))

    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            self.validations.append(self.trainer.global_step)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        if self.plateau:
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
            return [optimizer], [{"scheduler": scheduler, "monitor": "val_loss"}]
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Interrupted(Exception):
    pass


class InterruptAfter(Callback):
    """Dies after `steps` steps, before the next one or before the validation that follows."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_validation_start(self, trainer, pl_module):
        if trainer.global_step >= self.steps:
            raise Interrupted

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step >= self.steps:
            raise Interrupted


def fit(
    folder: Path,
    *,
    stop_after: int | None = None,
    ckpt: Path | None = None,
    workers: int = 0,
    accumulate: int = 1,
    plateau: bool = False,
    checkpoint: ModelCheckpoint | None = None,
    batch_size: int = 4,
    seed: int = 3,
    **trainer_options,
):
    """One process's share of a run; the caller's random state differs every time, as a new process's would."""
    torch.manual_seed(7 if ckpt is None else 1000 + (stop_after or 0))
    data = ImageDataModule(
        source=Synthetic(length=21, val_length=5, classes=3, image_size=16, seed=1),
        image_size=16,
        batch_size=batch_size,
        augment=Augmentation(name="standard", mixup=0.2),
        loading=Loading(workers=workers),
        seed=seed,
    )
    net = Net(plateau)
    if ckpt is None:
        torch.manual_seed(11)
        random.seed(11)
        np.random.seed(11)
    saver = checkpoint or ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
    )
    options = {"max_epochs": EPOCHS, **trainer_options}
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        accumulate_grad_batches=accumulate,
        callbacks=[ExactResume(), saver, *([InterruptAfter(stop_after)] if stop_after is not None else [])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    try:
        trainer.fit(net, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
    except Interrupted:
        assert stop_after is not None
    return net, trainer


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def assert_chain_is_exact(tmp_path: Path, stops: list[int], **options) -> None:
    whole, trainer = fit(tmp_path / "whole", **options)
    seen, draws, validations, ckpt = [], [], [], None
    for stop in [*stops, None]:
        folder = tmp_path / "parts"
        part, resumed = fit(folder, stop_after=stop, ckpt=ckpt, **options)
        seen, draws, validations = seen + part.seen, draws + part.draws, validations + part.validations
        ckpt = folder / f"{stop}.ckpt"
    assert resumed.global_step == trainer.global_step
    assert resumed.current_epoch == trainer.current_epoch
    assert seen == whole.seen
    assert draws == whole.draws
    assert validations == whole.validations
    assert same(whole, part)
    assert resumed.optimizers[0].param_groups[0]["lr"] == trainer.optimizers[0].param_groups[0]["lr"]
    assert resumed.fit_loop.epoch_loop._batches_that_stepped == trainer.fit_loop.epoch_loop._batches_that_stepped


@pytest.mark.parametrize("stops", [[1], [7], [5], [10], [14], [3, 8], [5, 10], [5, 6], [4, 5, 11], [1, 2, 3]])
def test_chains_of_resumes_are_bit_identical(tmp_path, stops):
    assert_chain_is_exact(tmp_path, stops)
