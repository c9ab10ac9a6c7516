"""The dataset whose images need not be decoded where their features are known: what a loader's workers run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from frostline.data.order import Draw
from frostline.data.seeding import seeded, stable_seed
from frostline.data.source import LabelledImages
from frostline.data.threads import one_thread
from frostline.data.transforms import Transform
from frostline.prefix.keyed import KeyedBatch, StoreSlot


class KeyedImages(Dataset[Any]):
    """Whole batches by the list of their keys (a `Draw` in training, an index in evaluation); see `KeyedBatch`.

    Row `sample * views + view` of a store belongs to a view of an image. With one view the transform must draw nothing
    at random. With several, a view is a pure function of (image, view), the same in every run, and which one is drawn
    is one of (seed, epoch, position). That is not the same as fresh augmentation: in time the network has seen every
    view.

    Args:
        slot: says which store holds features.
    """

    def __init__(
        self, images: LabelledImages, *, transform: Transform, slot: StoreSlot, views: int = 1, seed: int = 0
    ) -> None:
        if images.labels is None:
            raise ValueError("Images with soft labels have no keyed batches.")
        self.images = images
        self.transform = transform
        self.slot = slot
        self.views = views
        self.seed = seed
        self.labels = torch.tensor(list(images.labels), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Draw | int) -> KeyedBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Draw | int]) -> KeyedBatch:
        rows = np.array([self.row(key) for key in keys], dtype=np.int64)
        generation, store = self.slot.get()
        features, found = torch.empty(0), np.zeros(len(rows), dtype=bool)
        if store is not None:
            features, found = store.read(rows)
        missing = np.flatnonzero(~found)
        targets = self.labels[torch.from_numpy(rows // self.views)]
        return KeyedBatch(self.decoded(rows[missing]), missing, features, rows, generation, targets)

    def row(self, key: Draw | int) -> int:
        """The row of what a key draws."""
        if not isinstance(key, Draw):
            return key
        view = stable_seed(self.seed, "view", key.epoch, key.position) % self.views if self.views > 1 else 0
        return key.sample * self.views + view

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


def as_it_is(batch: Any) -> Any:
    """The collation of batches that come whole."""
    return batch
