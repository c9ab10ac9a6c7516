"""scikit-learn's handwritten digits: 1,797 real grey images of 8 x 8 pixels that come with the library."""

from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits

from frostline.data.source import ArrayImages, LabelledImages
from frostline.data.splitting import stratified_split


class Digits:
    """The digits 0 to 9, split by a seeded stratified split; grey values 0 … 16 become 0 … 255."""

    def __init__(self, *, val_fraction: float = 0.1, test_fraction: float = 0.2, split_seed: int = 0) -> None:
        bunch = load_digits()
        self._images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)
        self._labels = [int(label) for label in bunch.target]
        self._parts = stratified_split(
            self._labels,
            fractions={"val": val_fraction, "test": test_fraction},
            seed=split_seed,
            classes=self.classes,
        )

    @property
    def classes(self) -> Sequence[str]:
        return [str(digit) for digit in range(10)]

    def dataset(self, split: str) -> LabelledImages | None:
        indices = self._parts[split]
        if not indices:
            return None
        return ArrayImages(images=self._images[indices], labels=[self._labels[index] for index in indices])
