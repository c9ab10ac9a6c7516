"""Losses: from logits and hard or soft labels to the one number whose gradients train the network."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """Cross-entropy, the mean over the batch.

    Args:
        label_smoothing: share of each label spread evenly over all classes (Szegedy et al., 2016).
        class_weights: one weight per class, by which its samples count; None counts all alike.
    """

    class_weights: Tensor | None

    def __init__(self, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        # Not persistent: the checkpoint's state dict holds the network's tensors and nothing else.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels are class indices (batch,), or shares of each class (batch, classes)."""
        return F.cross_entropy(logits, labels, weight=self.class_weights, label_smoothing=self.label_smoothing)


class SumOfDifferences(nn.Module):
    """The notebook's `(prediction - labels).sum()`: its gradient by each logit is 1, whatever the image."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels are shares of each class (batch, classes), or class indices (batch,), taken as one-hot rows."""
        if labels.ndim == 1:
            labels = F.one_hot(labels, logits.shape[1])
        return (logits - labels).sum()


LOSSES: dict[str, type[nn.Module]] = {"cross_entropy": CrossEntropy, "sum_of_differences": SumOfDifferences}


def build_loss(name: str, **options: Any) -> nn.Module:
    """The loss of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in LOSSES:
        raise ValueError(f"loss.name: unknown loss `{name}`. The choices are: {', '.join(LOSSES)}")
    return LOSSES[name](**options)
