"""Metrics of a classifier, as torchmetrics objects whose states add up over batches and processes.

Every image counts once, on any number of processes: an average of per-process values would count a sample of a small
share for more than one of a large share.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from frostline.numeric_checks import diverged

# A confusion matrix takes 8 bytes for each pair of classes, twice in each split: 32 MB here, 3.2 GB at 10,000 classes.
MOST_CONFUSED = 1000
BINS = 15


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities (batch, classes), float32, of logits: the softmax, exactly, where the temperature is 1."""
    logits = logits.float()
    return (logits if temperature == 1 else logits / temperature).softmax(dim=1)


def hard_labels(labels: Tensor) -> Tensor:
    """The classes (batch,) of labels, or the most probable ones of soft labels (batch, classes)."""
    return labels.argmax(dim=1) if labels.ndim == 2 else labels


def confidence_bins(confidence: Tensor, right: Tensor) -> Tensor:
    """What a calibration is computed of, in 15 bins of equal width of the confidence.

    Args:
        confidence: probability of the predicted class, in [0, 1] (images,).
        right: whether that is the true class, bool (images,).

    Returns:
        float64 (3, 15): the images of each bin, the sum of their confidences, and how many are right.
    """
    sure = confidence.nan_to_num()  # NaN has no bin, and an index out of range is an error
    place = (sure * BINS).long().clamp(max=BINS - 1)
    values = torch.stack([torch.ones_like(sure), sure, right]).double()
    return torch.zeros(3, BINS, dtype=torch.float64, device=sure.device).index_add_(1, place, values)


def calibration_error(bins: Tensor) -> Tensor:
    """Expected calibration error (Guo et al., 2017, arXiv 1706.04599) of `confidence_bins`, a scalar in [0, 1].

    It is the mean over images of the gap between how sure a bin's images are and how many of them are right.
    """
    images, confidence, right = bins.unbind()
    return ((confidence - right).abs().sum() / images.sum().clamp(min=1)).float()


class CalibrationError(Metric):
    """`calibration_error` over batches and processes.

    torchmetrics' own keeps the confidence of every image; this one keeps three numbers a bin.
    """

    full_state_update = False
    bins: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("bins", torch.zeros(3, BINS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities (batch, classes), labels (batch,)."""
        sure, predicted = probabilities.max(dim=1)
        self.bins += confidence_bins(sure, predicted == labels)

    def compute(self) -> Tensor:
        """A scalar in [0, 1]."""
        return calibration_error(self.bins)


def evaluation_metrics(classes: int) -> MetricCollection:
    """Metrics of one evaluation, from probabilities (batch, classes) and class indices (batch,).

    accuracy: share of images whose most probable class is right; accuracy_top5 the same for the five most probable,
    where there are more than five classes. f1: the unweighted mean over classes of 2·precision·recall/(precision +
    recall). calibration_error: see `CalibrationError`. confusion: images (true class, predicted class), up to
    `MOST_CONFUSED` classes.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False),
        "f1": MulticlassF1Score(classes, average="macro", validate_args=False),
        "calibration_error": CalibrationError(),
    }
    if classes <= MOST_CONFUSED:
        metrics["confusion"] = MulticlassConfusionMatrix(classes, validate_args=False)
    if classes > 5:
        metrics["accuracy_top5"] = MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False)
    return MetricCollection(metrics, compute_groups=False)


class Evaluation(torch.nn.Module):
    """The metrics of one split, updated batch by batch and summed up once.

    Args:
        own: further metrics by name, from probabilities (batch, classes) and class indices (batch,) to a scalar.
    """

    def __init__(self, classes: int, own: Mapping[str, Metric]) -> None:
        super().__init__()
        self.metrics = evaluation_metrics(classes)
        if taken := {*self.metrics, "loss", "count", "confusion", "accuracy_top5"} & own.keys():
            raise ValueError(f"metrics: {', '.join(sorted(taken))} is a name of frostline's own; choose another one")
        self.metrics.add_metrics({name: metric.clone() for name, metric in own.items()})
        self.loss = MeanMetric()
        self.count = SumMetric().set_dtype(torch.float64)  # exact far beyond any number of images

    def update(
        self,
        logits: Tensor,
        labels: Tensor,
        loss: Tensor,
        weight: Tensor | int | None = None,
        *,
        temperature: float = 1.0,
    ) -> None:
        """Add a batch: logits (batch, classes); labels (batch,) or soft (batch, classes); the batch's mean loss, and
        what it was divided by: by default, the images. Only the calibration error is that at the temperature."""
        hard = hard_labels(labels)
        probabilities = at_temperature(logits, 1.0)
        calibrated = probabilities if temperature == 1 else at_temperature(logits, temperature)
        for name, metric in self.metrics.items():
            metric.update(calibrated if name == "calibration_error" else probabilities, hard)
        self.loss.update(loss.detach().float(), len(labels) if weight is None else weight)
        self.count.update(len(labels))

    def compute(self) -> tuple[dict[str, float], Tensor | None]:
        """The scalars by name, and the confusion matrix (true class, predicted class); None beyond `MOST_CONFUSED`
        classes. `count` is the number of images."""
        values: dict[str, Any] = self.metrics.compute()
        confusion: Tensor | None = values.pop("confusion", None)
        scalars = {"loss": self.loss.compute().item(), **{name: value.item() for name, value in values.items()}}
        return {**scalars, "count": float(self.count.compute().item())}, confusion

    def reset(self) -> None:
        """Forget all batches."""
        for metric in (self.metrics, self.loss, self.count):
            metric.reset()

    def results(self, split: str, *, trainer: lightning.Trainer) -> tuple[dict[str, float], Tensor | None]:
        """The metrics by name, and the confusion matrix (see `compute`) of a complete evaluation; resets them.

        Raises:
            RuntimeError: an image was left out or counted twice.
            FloatingPointError: the loss is NaN or infinite.
        """
        scalars, confusion = self.compute()
        self.reset()
        _check_count(split, int(scalars.pop("count")), trainer=trainer)
        if not math.isfinite(scalars["loss"]):
            what = f"The {split} loss became {scalars['loss']}"
            raise diverged(what, step=trainer.global_step, epoch=trainer.current_epoch)
        return scalars, confusion


def _check_count(split: str, count: int, *, trainer: lightning.Trainer) -> None:
    """Whether as many images were counted as the split has."""
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


def per_class(confusion: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class: images, precision, recall, F1, from a confusion matrix (true class, predicted class)."""
    rows = []
    confusion = confusion.reshape(len(classes), len(classes))  # torchmetrics gives a number where there is one class
    for index, name in enumerate(classes):
        right = confusion[index, index].item()
        images, predicted = confusion[index].sum().item(), confusion[:, index].sum().item()
        rows.append(
            {
                "class": name,
                "images": int(images),
                "precision": right / predicted if predicted else 0.0,
                "recall": right / images if images else 0.0,
                "f1": 2 * right / (images + predicted) if images + predicted else 0.0,
            }
        )
    return rows
