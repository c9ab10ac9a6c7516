"""The runs of `test_step_mean.py`: one optimizer step's images shared in different ways, for every loss option.

torchrun --nproc-per-node 2 -m step_mean_runs OUT
"""

import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from frostline.classifier import ImageClassifier
from frostline.data.spec import DataSpec
from frostline.losses import CrossEntropy, SumOfDifferences
from frostline.options import TrainingOptions

WEIGHTS = [0.2, 0.7, 2.1]
SPEC = DataSpec(classes=["a", "b", "c"], mean=[0.5] * 3, std=[0.5] * 3, image_size=8)


class Own(nn.Module):
    """A loss that says nothing about itself: taken as a mean over the batch."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(logits, labels)


LOSSES: dict[str, tuple[Any, bool]] = {
    "plain": (CrossEntropy, False),
    "weights": (partial(CrossEntropy, class_weights=WEIGHTS), False),
    "smoothing": (partial(CrossEntropy, label_smoothing=0.3), False),
    "weights and smoothing": (partial(CrossEntropy, class_weights=WEIGHTS, label_smoothing=0.3), False),
    "soft": (CrossEntropy, True),
    "soft and weights": (partial(CrossEntropy, class_weights=WEIGHTS), True),
    "sum": (SumOfDifferences, False),
    "torch's": (lambda: nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS)), False),
    "own": (Own, False),
}
# How the 20 images come: sizes of the batches on each process, batches accumulated in a step.
WAYS: dict[str, tuple[list[int], int]] = {
    "whole": ([8, 8, 4], 1),
    "accumulated": ([4, 4, 4, 4, 4], 2),
    "unequal batches": ([5, 3, 2, 6, 4], 2),
}
# The same on two processes, each of which takes every second image.
WAYS_OF_TWO: dict[str, tuple[list[int], int]] = {"two": ([4, 4, 2], 1), "two, accumulated": ([2, 2, 2, 2, 2], 2)}


class Recorder(lightning.Callback):
    """The training loss that loggers got at each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            self.losses.append(float(trainer.logged_metrics["train/loss"]))


def run(loss: str, sizes: list[int], accumulated: int, *, rank: int | None = None) -> dict[str, Any]:
    """Weights and logged values after three optimizer steps on the same 20 images, of which a rank sees its share."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 3, 8, 8, generator=generator)
    build, soft = LOSSES[loss]
    labels = torch.tensor([0, 0, 0, 1, 0, 0, 1, 2] * 2 + [2, 0, 0, 1])
    targets = torch.rand(20, 3, generator=generator).softmax(dim=1) if soft else labels
    torch.manual_seed(0)
    network = nn.Sequential()
    network.conv1 = nn.Conv2d(3, 4, 3)
    network.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network.fc = nn.Linear(16, 3)
    training = TrainingOptions(optimizer=partial(torch.optim.SGD, lr=0.05), loss=build())
    classifier = ImageClassifier(network=network, data_spec=SPEC, training=training)
    own = list(range(20)) if rank is None else list(range(rank, 20, 2))
    batches = [[own.pop(0) for _ in range(size)] for size in sizes]
    data = TensorDataset(images, targets)
    recorder = Recorder()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1 if rank is None else 2,
        strategy="auto" if rank is None else DDPStrategy(process_group_backend="gloo"),
        accumulate_grad_batches=accumulated,
        log_every_n_steps=1,
        logger=lightning.pytorch.loggers.logger.DummyLogger(),
        callbacks=[recorder],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    validated = list(range(20)) if rank is None else list(range(rank, 20, 2))
    trainer.fit(
        classifier,
        DataLoader(data, batch_sampler=batches),
        DataLoader(data, batch_sampler=[validated[: sizes[0]], validated[sizes[0] :]]),
    )
    names = ("train/loss_epoch", "train/accuracy", "val/loss", "val/accuracy")
    return {
        "weights": torch.cat([parameter.detach().flatten() for parameter in network.parameters()]),
        "losses": torch.tensor(recorder.losses),
        "metrics": torch.tensor([float(trainer.callback_metrics[name]) for name in names]),
    }


def main(out: Path) -> None:
    warnings.simplefilter("ignore")
    rank = int(os.environ["RANK"])
    found = {(loss, way): run(loss, *how, rank=rank) for way, how in WAYS_OF_TWO.items() for loss in LOSSES}
    torch.save(found, out / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
