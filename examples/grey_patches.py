"""A transform of your own: any class whose objects are called with an image and return one."""

import torch
from torch import Tensor


class GreyPatches:
    """Grey squares at random places (DeVries and Taylor, 2017, arXiv 1708.04552)."""

    def __init__(self, *, patches: int, size: int) -> None:
        self.patches, self.size = patches, size

    def __call__(self, image: Tensor) -> Tensor:
        """A uint8 image (3, height, width), as it was decoded; the result is fitted to data.image_size."""
        image = image.clone()
        for _ in range(self.patches):
            top, left = (int(torch.randint(side, ())) for side in image.shape[-2:])
            image[:, top : top + self.size, left : left + self.size] = 128
        return image
