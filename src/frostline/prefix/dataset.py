"""The dataset of a loader's workers: cached features where there are some, else decoded images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from frostline.data.order import SampleIndex
from frostline.data.seeding import one_thread, seeded, stable_seed
from frostline.data.source import LabelledImages
from frostline.data.transforms import Transform
from frostline.prefix.mixed_batch import MixedBatch, SharedStoreHandle


class CachedFeatureDataset(Dataset[Any]):
    """Batches (`MixedBatch`) by the list of their indices: `SampleIndex` in training, int in evaluation.

    Row `sample * views + view` of a store belongs to a view of an image. With one view the transform must draw nothing
    at random. With several, a view is a pure function of (image, view), the same in every run, and which one a
    batch takes is one of (seed, epoch, position). Unlike fresh augmentation, the network sees every view in time.

    Args:
        views: fixed augmented views of each image; 1 where nothing is augmented.

    Attributes:
        handle: of the store that holds features.
    """

    def __init__(self, images: LabelledImages, *, transform: Transform, views: int = 1, seed: int = 0) -> None:
        if images.labels is None:
            raise ValueError("Features of images with soft labels are not cached.")
        self.images = images
        self.transform = transform
        self.handle = SharedStoreHandle()
        self.views = views
        self.seed = seed
        self.labels = torch.tensor(list(images.labels), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SampleIndex | int) -> MixedBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[SampleIndex | int]) -> MixedBatch:
        rows = np.array([self.row(index) for index in indices], dtype=np.int64)
        generation, store = self.handle.get()
        features, found = torch.empty(0), np.zeros(len(rows), dtype=bool)
        if store is not None:
            features, found = store.read(rows)
        missing = np.flatnonzero(~found)
        targets = self.labels[torch.from_numpy(rows // self.views)]
        return MixedBatch(self.decoded(rows[missing]), missing, features, rows, generation, targets)

    def row(self, index: SampleIndex | int) -> int:
        """The row of an index in the store."""
        if not isinstance(index, SampleIndex):
            return index
        view = stable_seed(self.seed, "view", index.epoch, index.position) % self.views if self.views > 1 else 0
        return index.sample * self.views + view

    def decoded(self, rows: np.ndarray) -> torch.Tensor:
        """The images of some rows, (n, 3, height, width)."""
        with one_thread():
            images = [self._image(row) for row in rows.tolist()]
        return torch.stack(images) if images else torch.empty(0, dtype=torch.uint8)

    def _image(self, row: int) -> torch.Tensor:
        sample, view = divmod(row, self.views)
        if self.views == 1:
            return self.transform(self.images[sample][0])
        with seeded("view", sample, view):
            return self.transform(self.images[sample][0])
