"""Evaluations of the validation and test images: every image counts once, on any number of processes."""

import math
from collections.abc import Mapping

import lightning
from torch import Tensor, nn
from torchmetrics import Metric

from frostline.finite import diverged
from frostline.metrics import Evaluation


class Evaluations(nn.Module):
    """The metrics of `val` and of `test`."""

    def __init__(self, classes: int, own: Mapping[str, Metric] | None = None) -> None:
        super().__init__()
        self.val, self.test = Evaluation(classes, own), Evaluation(classes, own)

    def of(self, split: str) -> Evaluation:
        """The metrics of one split."""
        return self.val if split == "val" else self.test

    def results(self, split: str, *, trainer: lightning.Trainer) -> tuple[dict[str, float], Tensor | None]:
        """The metrics by name, and the confusion matrix (see `Evaluation.compute`); resets them.

        Raises:
            RuntimeError: an image was left out or counted twice.
            FloatingPointError: the loss is NaN or infinite.
        """
        scalars, confusion = self.of(split).compute()
        self.of(split).reset()
        check_count(split, int(scalars.pop("count")), trainer=trainer)
        if not math.isfinite(scalars["loss"]):
            what = f"The {split} loss became {scalars['loss']}"
            raise diverged(what, step=trainer.global_step, epoch=trainer.current_epoch)
        return scalars, confusion


def check_count(split: str, count: int, *, trainer: lightning.Trainer) -> None:
    """Whether as many images were counted as the split has.

    Raises:
        RuntimeError: more or fewer.
    """
    loader = trainer.val_dataloaders if split == "val" else trainer.test_dataloaders
    limit = trainer.limit_val_batches if split == "val" else trainer.limit_test_batches
    dataset = getattr(loader, "dataset", None)
    # An int is a number of batches, and 1 == 1.0.
    if trainer.sanity_checking or isinstance(limit, int) or limit != 1.0 or dataset is None:
        return
    if count != len(dataset):
        raise RuntimeError(
            f"{count} images were counted in the {split} evaluation, but there are {len(dataset)}. Build the "
            "Trainer with use_distributed_sampler=False and take the loaders from ImageDataModule"
        )
