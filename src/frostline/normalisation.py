"""From images to what a network takes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalisation(nn.Module):
    """Maps images (batch, 3, height, width), uint8 or floats in [0, 1], to floats of mean 0 and standard deviation 1.

    Args:
        mean, std: red, green, blue, on the scale [0, 1].
        channels_last: give them in channels-last memory format.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        # Not persistent: the checkpoint's state dict holds the network's tensors and nothing else.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        pixels = (pixels - self.mean) / self.std
        return pixels.contiguous(memory_format=torch.channels_last) if self.channels_last else pixels
