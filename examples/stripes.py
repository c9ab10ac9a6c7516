"""A data source of your own: `classes`, and for each split a dataset of images and labels, or None."""

import torch

from frostline.data.source import LabelledImages


class StripedImages(LabelledImages):
    """Images with one stripe, across (class 0) or down (class 1)."""

    def __init__(self, length: int, image_size: int) -> None:
        self.length, self.image_size = length, image_size

    def __len__(self) -> int:
        return self.length

    @property
    def labels(self) -> list[int]:
        return [index % 2 for index in range(self.length)]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """A uint8 image (3, image_size, image_size) and its class."""
        image = torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8)
        place = index // 2 % self.image_size
        if index % 2:
            image[:, :, place] = 255
        else:
            image[:, place] = 255
        return image, index % 2


class Stripes:
    """The same images for training, validation and test; `image_size` comes from data.image_size."""

    classes = ("across", "down")

    def __init__(self, *, length: int, image_size: int) -> None:
        self.images = StripedImages(length, image_size)

    def dataset(self, split: str) -> StripedImages:
        return self.images
