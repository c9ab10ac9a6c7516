"""Uniform noise with uniform soft labels: nothing to learn, for looking at gradients."""

from collections.abc import Sequence

import torch

from frostline.data.seeding import stable_seed
from frostline.data.source import LabelledImage, LabelledImages


class RandomNoise:
    """float32 images `torch.rand(3, image_size, image_size)` with soft labels `torch.rand(classes)`.

    Item i of a split is a pure function of (seed, split, i).
    """

    # The identity: noise is looked at as it is.
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(
        self,
        *,
        length: int = 1,
        val_length: int = 0,
        test_length: int = 0,
        classes: int = 1000,
        image_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.lengths = {"train": length, "val": val_length, "test": test_length}
        self.image_size = image_size
        self.seed = seed
        self._classes = [str(label) for label in range(classes)]

    @property
    def classes(self) -> Sequence[str]:
        return self._classes

    def dataset(self, split: str) -> LabelledImages | None:
        length = self.lengths[split]
        if not length:
            return None
        return NoiseImages(
            length=length, classes=len(self._classes), image_size=self.image_size, seed=stable_seed(self.seed, split)
        )


class NoiseImages(LabelledImages):
    """One split of `RandomNoise`; items are drawn when they are asked for."""

    def __init__(self, *, length: int, classes: int, image_size: int, seed: int) -> None:
        self.length = length
        self.classes = classes
        self.image_size = image_size
        self.seed = seed

    @property
    def labels(self) -> None:
        return None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> LabelledImage:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(stable_seed(self.seed, index))
        image = torch.rand(3, self.image_size, self.image_size, generator=generator)
        return image, torch.rand(self.classes, generator=generator)
