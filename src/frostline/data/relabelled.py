"""Images whose labels are places in another list of the same class names."""

from collections.abc import Sequence
from typing import Any

import torch

from frostline.data.source import LabelledImage, LabelledImages, ScalableImages


class RelabelledImages(LabelledImages):
    """The images of a split, with the labels of another order of classes.

    Args:
        places: the new label of each old one.
    """

    def __init__(self, images: LabelledImages, places: Sequence[int]) -> None:
        self._images = images
        self._places = list(places)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._images, name)

    @property
    def labels(self) -> Sequence[int] | None:
        labels = self._images.labels
        return None if labels is None else [self._places[label] for label in labels]

    @property
    def identity(self) -> str | None:
        return self._images.identity

    def for_shorter_side(self, pixels: int) -> LabelledImages:
        """See `frostline.data.source.ScalableImages`."""
        if not isinstance(self._images, ScalableImages):
            return self
        return RelabelledImages(self._images.for_shorter_side(pixels), self._places)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledImage:
        image, target = self._images[index]
        if isinstance(target, torch.Tensor) and target.ndim:
            return image, torch.empty_like(target).index_copy_(0, torch.tensor(self._places), target)
        return image, self._places[int(target)]
