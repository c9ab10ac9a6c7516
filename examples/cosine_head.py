"""A head of your own: a module whose constructor takes `features` and `classes`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineHead(nn.Module):
    """Cosine similarity to one vector per class (Gidaris and Komodakis, 2018, arXiv 1804.09458)."""

    def __init__(self, *, features: int, classes: int, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Logits (batch, classes) of features (batch, features)."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))
