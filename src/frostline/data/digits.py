"""Handwritten digits: 1,797 real grey images of 8 x 8 pixels, in the package as scikit-learn ships them."""

import gzip
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import torch

from frostline.data.source import ArrayImages, LabelledImages
from frostline.data.splitting import split_note, stratified_split


class Digits:
    """The digits 0 to 9, split by a seeded stratified split; grey values 0 … 16 become 0 … 255."""

    def __init__(self, *, val_fraction: float = 0.1, test_fraction: float = 0.2, split_seed: int = 0) -> None:
        # 64 grey values and the label in each row; licence: digits_license.txt.
        with files("frostline.data").joinpath("digits.csv.gz").open("rb") as compressed, gzip.open(compressed) as file:
            rows = np.loadtxt(file, delimiter=",")
        pixels = torch.from_numpy(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().to(torch.uint8)
        whole = ArrayImages(images=pixels, labels=rows[:, -1].tolist())
        fractions = {"val": val_fraction, "test": test_fraction}
        self.split_note = split_note(fractions, seed=split_seed)
        parts = stratified_split(whole.labels, fractions=fractions, seed=split_seed, classes=self.classes)
        self._splits = {split: whole.subset(indices) for split, indices in parts.items() if indices}

    @property
    def classes(self) -> Sequence[str]:
        return [str(digit) for digit in range(10)]

    def dataset(self, split: str) -> LabelledImages | None:
        return self._splits.get(split)
