"""The labelled splits of a source: classes and their order, images, counts, facts, and the check before a run."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.data.folders import BROKEN, MOST_BROKEN, composed, listed
from frostline.data.source import SPLITS, CheckableImages, ImageSource, LabelledImages, RelabelledImages
from frostline.storage.checksums import fingerprint
from frostline.storage.names import first_of

NAMES_AND_LABELS = "checksum of the training images' names and labels"


class SourceSplits:
    """The splits of a source, each read once.

    Args:
        source: see `frostline.data.source`.
    """

    def __init__(self, source: ImageSource) -> None:
        super().__init__()
        self.source = source
        self._splits: dict[str, LabelledImages | None] = {}
        self._checked: set[str] = set()
        self._class_order: list[str] | None = None
        self._places: list[int] = []

    @property
    def classes(self) -> list[str]:
        """Class names, in Unicode's composed form (NFC); the place is the label."""
        return self._class_order or [composed(str(name)) for name in self.source.classes]

    def take_order(self, classes: Sequence[str]) -> bool:
        """Label the images by the places of their classes in another list; False where the list has other names."""
        own = self.classes
        if sorted(own) != sorted(classes):
            return False
        if own != list(classes):
            self._class_order = list(classes)
            self._places = [self._class_order.index(composed(str(name))) for name in self.source.classes]
            self._splits = {}
        return True

    def images(self, split: str) -> LabelledImages | None:
        """A split's images before any transform, or None where the source has none.

        Raises:
            ValueError: a label lies outside the class list.
        """
        if split not in SPLITS:
            raise ValueError(f"Unknown split {split!r}; choose from {', '.join(SPLITS)}.")
        if split not in self._splits:
            images = self.source.dataset(split)
            if images is not None and not len(images):
                images = None
            if images is not None and self._class_order is not None:
                images = RelabelledImages(images, self._places)
            labels = None if images is None else images.labels
            if labels is not None and split == "train" and len(self.classes) < 2:
                shown = ", ".join(map(repr, self.classes))
                raise ValueError(f"data: only one class, {shown}; a classifier needs two or more classes.")
            if labels is not None:
                worst = max(labels, key=lambda label: abs(label - (len(self.classes) - 1) / 2))
                if not 0 <= worst < len(self.classes):
                    raise ValueError(
                        f"The {split} images have the label {worst}, but there are {len(self.classes)} classes "
                        f"(labels 0 to {len(self.classes) - 1})."
                    )
            self._splits[split] = images
        return self._splits[split]

    @property
    def notes(self) -> list[str]:
        """Notes of the source about images left out and labels that may be meant otherwise, and the classes that a
        split, of those read so far, has no images of."""
        left_out = getattr(self.source, "left_out", None)
        own = [*getattr(self.source, "notes", ()), *([] if left_out is None else left_out.lines())]
        return [*own, *self._absent_classes()]

    def _absent_classes(self) -> Iterator[str]:
        absent: dict[tuple[str, ...], list[str]] = {}
        for split, images in self._splits.items():
            if images is not None and images.labels is not None:
                labels = set(images.labels)
                names = tuple(name for place, name in enumerate(self.classes) if place not in labels)
                absent.setdefault(names, []).append(split)
        for names, splits in absent.items():
            if names:
                verb = "have" if len(splits) > 1 else "has"
                yield f"WARNING: {' and '.join(splits)} {verb} no images of {first_of(names)}"

    def facts(self) -> dict[str, Any]:
        """Images of each split, and how many files the source leaves out, by reason."""
        found = {split: self.images(split) for split in SPLITS}
        left_out = getattr(self.source, "left_out", None)
        return {
            "images": {split: len(images) for split, images in found.items() if images is not None},
            "left_out": {} if left_out is None else dict(left_out.counts),
            "notes": self.notes,
        }

    @cached_property
    def names_and_labels(self) -> str | None:
        """`NAMES_AND_LABELS`: file names are taken without their folders; None where labels are soft."""
        images: Any = self.images("train")
        if images is None or images.labels is None:
            return None
        names = (os.fsencode(Path(path).name) + b"\0" for path in getattr(images, "paths", None) or ())
        return fingerprint([*names, np.asarray(images.labels, dtype=np.int64).tobytes()])[:8]

    @property
    def class_counts(self) -> list[int] | None:
        """Training images of each class, or None where labels are soft."""
        images = self.images("train")
        if images is None or images.labels is None:
            return None
        return torch.bincount(torch.as_tensor(images.labels), minlength=len(self.classes)).tolist()

    def class_weights(self) -> torch.Tensor:
        """Weights `(classes,)` for the loss: inverse frequency in the training images, with mean 1.

        Raises:
            ValueError: labels are soft, or a class has no training image.
        """
        counts = self.class_counts
        if counts is None:
            raise ValueError("Class weights need one class per training image, and these labels are soft.")
        if 0 in counts:
            raise ValueError(
                f"class_weights: class {self.classes[counts.index(0)]!r} has no training image, so it has no weight."
            )
        inverse = 1.0 / torch.tensor(counts, dtype=torch.float64)
        return (inverse / inverse.mean()).float()

    def check_images(self, splits: Sequence[str]) -> None:
        """See that the images of these splits can be read, at the cost of `frostline.data.files.check_image`.

        Raises:
            ValueError: names all that cannot.
        """
        problems: list[str] = []
        for split in splits:
            images: object = None if split in self._checked else self.images(split)
            # An attribute of that name in a class of the user's own may be anything.
            if isinstance(images, CheckableImages) and callable(images.broken):
                problems += [str(error) for error in images.broken().values()]
        if problems:
            raise ValueError(
                listed(problems, BROKEN, most=MOST_BROKEN)
                + "\nFix or remove them, or type on_bad_image=skip to leave such images out."
            )
        self._checked |= set(splits)
