"""What is measured of a classifier: torchmetrics objects whose states add up over batches and processes.

Averages of per-process values would count a sample of a small share for more than one of a large share; states that
add up count each sample once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)


def evaluation_metrics(classes: int) -> MetricCollection:
    """Metrics of one evaluation, from probabilities (batch, classes) and class indices (batch,).

    accuracy: share of images whose most probable class is right; accuracy_top5 the same for the five most probable,
    where there are more than five classes. f1: the unweighted mean over classes of 2·precision·recall/(precision +
    recall). calibration_error: expected calibration error over 15 bins (Guo et al., 2017). count: images seen.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False),
        "f1": MulticlassF1Score(classes, average="macro", validate_args=False),
        "calibration_error": MulticlassCalibrationError(classes, n_bins=15, norm="l1", validate_args=False),
        "confusion": MulticlassConfusionMatrix(classes, validate_args=False),
    }
    if classes > 5:
        metrics["accuracy_top5"] = MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False)
    return MetricCollection(metrics, compute_groups=False)


class Evaluation(torch.nn.Module):
    """The metrics of one split, updated batch by batch and summed up once."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.metrics = evaluation_metrics(classes)
        self.loss = MeanMetric()

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Add a batch: logits (batch, classes); labels (batch,) or soft (batch, classes); the batch's mean loss."""
        hard = labels.argmax(dim=1) if labels.ndim == 2 else labels
        self.metrics.update(logits.float().softmax(dim=1), hard)
        self.loss.update(loss.detach().float(), len(labels))

    def compute(self) -> tuple[dict[str, float], Tensor]:
        """The scalars by name, and the confusion matrix (true class, predicted class)."""
        values: dict[str, Any] = self.metrics.compute()
        confusion: Tensor = values.pop("confusion")
        scalars = {"loss": self.loss.compute().item(), **{name: value.item() for name, value in values.items()}}
        return {**scalars, "count": float(confusion.sum().item())}, confusion

    def reset(self) -> None:
        """Forget all batches."""
        self.metrics.reset()
        self.loss.reset()


def per_class(confusion: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class: images, precision, recall, F1, from a confusion matrix (true class, predicted class)."""
    rows = []
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
