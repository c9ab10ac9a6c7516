"""Losses: from logits and hard or soft labels to the one number whose gradients train the network."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy, the mean over the batch; labels are class indices (batch,), or shares of each (batch, classes).

    Args:
        label_smoothing: share of each label spread evenly over all classes (Szegedy et al., 2016).
        class_weights: one weight per class, by which its samples count; None counts all alike.
    """

    def __init__(self, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must be at least 0 and less than 1.")
        if class_weights is not None and not all(0 <= weight < math.inf for weight in class_weights):
            raise ValueError(f"class_weights={list(class_weights)} must be finite and not negative.")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        super().__init__(weights, label_smoothing=label_smoothing)

    @property
    def recipe(self) -> dict[str, Any]:
        """The arguments of `build_loss` that give this loss: plain values, for checkpoints."""
        weights = None if self.weight is None else self.weight.tolist()
        return {"name": "cross_entropy", "label_smoothing": self.label_smoothing, "class_weights": weights}


class SumOfDifferences(nn.Module):
    """The notebook's `(prediction - labels).sum()`: its gradient by each logit is 1, whatever the image."""

    reduction = "sum"
    recipe: Mapping[str, Any] = {"name": "sum_of_differences"}

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels are shares of each class (batch, classes), or class indices (batch,), taken as one-hot rows."""
        if labels.ndim == 1:
            labels = F.one_hot(labels, logits.shape[1])
        return (logits - labels).sum()


def total_weight(loss: nn.Module, labels: Tensor) -> Tensor | int | None:
    """What a loss that is a mean over the batch divides by: its images, or the class weights of them together; None
    for a loss that is a sum."""
    if getattr(loss, "reduction", "mean") == "sum":
        return None
    weights = loss.weight if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else None
    # torch divides by the images where labels are shares of classes.
    return len(labels) if weights is None or labels.ndim == 2 else weights[labels].sum()


def mean_over_images(loss: Tensor, weight: Tensor | int | None, images: int) -> tuple[Tensor, Tensor | int]:
    """A batch's loss and its weight in a mean over batches; a sum (weight None) becomes the mean over its images."""
    loss = loss.detach().float()
    return (loss / images, images) if weight is None else (loss, weight)


LOSSES: dict[str, type[nn.Module]] = {"cross_entropy": CrossEntropy, "sum_of_differences": SumOfDifferences}


def build_loss(name: str, **options: Any) -> nn.Module:
    """The loss of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: unknown loss `{name}`. The choices are: {', '.join(LOSSES)}")
    return LOSSES[name](**options)
