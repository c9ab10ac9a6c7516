"""What a data source provides: class names, and up to three splits of labelled images."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from PIL import Image
from torch.utils.data import Dataset

from frostline.storage.checksums import fingerprint

SPLITS = ("train", "val", "test")

LabelledImage: TypeAlias = tuple[Image.Image | torch.Tensor, int | torch.Tensor]


class LabelledImages(Dataset[LabelledImage]):
    """One split of a source.

    An item is `(image, target)`. The image is a PIL image in mode RGB, a uint8 tensor `(3, height, width)`, or a
    float32 tensor `(3, height, width)` in [0, 1]; the target is a class index, or a float tensor `(classes,)` of soft
    labels. An item is a function of its index alone: whatever is random about it is seeded by the index.

    Attributes:
        thread_safe: whether several threads may read items at once.
    """

    thread_safe = False

    @property
    def labels(self) -> Sequence[int] | None:
        """The class index of each item, or None where labels are soft."""
        raise NotImplementedError

    @property
    def soft_labels(self) -> torch.Tensor | None:
        """The soft labels of all items, float32 (items, classes), or None where they are not known without the images;
        then features of the images are not stored."""
        return None

    @property
    def identity(self) -> str | None:
        """A key that is equal for equal images in equal order, under which results computed from them are cached.

        None where that is unknown without reading every image; then nothing is cached.
        """
        return None

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> LabelledImage:
        raise NotImplementedError


@runtime_checkable
class ScalableImages(Protocol):
    """Images that can be had smaller, and faster, where a transform makes use of a part of their pixels only.

    The datamodule asks for `for_shorter_side(pixels)` with the pixels of the shorter side that its transform makes use
    of, and reads those images in place of these: the same items in the same order. Images without the method are read
    as they are.
    """

    def for_shorter_side(self, pixels: int) -> LabelledImages:
        """The same images, each with at least so many pixels on its shorter side, or as many as it has."""


@runtime_checkable
class CheckableImages(Protocol):
    """Images that can be checked before a training, at less cost than reading them."""

    def broken(self) -> Mapping[int, ValueError]:
        """Position -> what is wrong, of the images that cannot be read."""


@runtime_checkable
class ImageSource(Protocol):
    """Where images come from; a user's own class provides the same two members."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; the place in the list is the label."""

    def dataset(self, split: str) -> LabelledImages | None:
        """The split `train`, `val` or `test`, or None where the source has no such split."""


class ArrayImages(LabelledImages):
    """Images in memory.

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

    @property
    def identity(self) -> str:
        pixels = self._images.contiguous()
        return f"{tuple(pixels.shape)} {pixels.dtype} {fingerprint([pixels.numpy().data])}"

    def subset(self, indices: Sequence[int]) -> "ArrayImages":
        return ArrayImages(images=self._images[indices], labels=[self._labels[index] for index in indices])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> LabelledImage:
        image = self._images[index]
        if image.ndim == 2:
            image = image.expand(3, -1, -1)
        return image, self._labels[index]


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
        """See `ScalableImages`."""
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
