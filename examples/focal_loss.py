"""A loss of your own: a module called with logits and labels; the mean over the batch."""

import torch.nn.functional as F
from torch import Tensor, nn


class FocalLoss(nn.Module):
    """Cross-entropy, each image weighted by (1 - its probability) ** gamma (Lin et al., 2017, arXiv 1708.02002)."""

    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A scalar, for logits (batch, classes) and labels (batch,) or (batch, classes)."""
        losses = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()
