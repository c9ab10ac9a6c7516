"""What a data source provides: class names, and up to three splits of labelled images."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from PIL import Image
from torch.utils.data import Dataset

SPLITS = ("train", "val", "test")

LabelledImage: TypeAlias = tuple[Image.Image | torch.Tensor, int | torch.Tensor]


class LabelledImages(Dataset[LabelledImage]):
    """One split of a source.

    An item is `(image, target)`. The image is a PIL image in mode RGB, a uint8 tensor `(3, height, width)`, or a
    float32 tensor `(3, height, width)` in [0, 1]; the target is a class index, or a float tensor `(classes,)` of soft
    labels. An item is a function of its index alone: whatever is random about it is seeded by the index.
    """

    @property
    def labels(self) -> Sequence[int] | None:
        """The class index of each item, or None where labels are soft."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> LabelledImage:
        raise NotImplementedError


@runtime_checkable
class ImageSource(Protocol):
    """Where images come from; a user's own class provides the same two members."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; the place in the list is the label."""

    def dataset(self, split: str) -> LabelledImages | None:
        """The split `train`, `val` or `test`, or None where the source has no such split."""


class ArrayImages(LabelledImages):
    """Images held in memory.

    Args:
        images: uint8 tensor `(n, height, width)` (grey) or `(n, 3, height, width)`.
        labels: n class indices.
    """

    def __init__(self, *, images: torch.Tensor, labels: Sequence[int]) -> None:
        self._images = images
        self._labels = [int(label) for label in labels]

    @property
    def labels(self) -> Sequence[int]:
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> LabelledImage:
        image = self._images[index]
        if image.ndim == 2:
            image = image.expand(3, -1, -1)
        return image, self._labels[index]
