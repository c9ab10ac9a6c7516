"""The dataset of a loader's workers: stored features where there is a store, else decoded images."""

import warnings
from collections.abc import Iterable, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frostline.data.order import SampleIndex
from frostline.data.seeding import one_thread, seeded, stable_seed
from frostline.data.source import LabelledImages
from frostline.data.transforms import Transform
from frostline.prefix.shared_store import SharedStoreHandle


class StoredBatch(NamedTuple):
    """A batch of n images, or of their features.

    What the CPU alone needs is no tensor, so that it does not travel to the device.

    Attributes:
        values: features (n, *shape), or images (n, 3, height, width).
        are_features: which of them.
        rows: the row of each image in the store, int64 (n,).
        generation: which store the features are from; see `SharedStoreHandle`.
        targets: int64 (n,), or float32 (n, classes).
    """

    values: Tensor
    are_features: bool
    rows: np.ndarray
    generation: int
    targets: Tensor


# Images and targets, or what a store has of them.
Batch: TypeAlias = tuple[Tensor, Tensor] | StoredBatch


class FeatureDataset(Dataset[Any]):
    """Batches (`StoredBatch`) by the list of their indices: `SampleIndex` in training, int in evaluation.

    A batch has features where the store has them of all its images: `frostline.prefix.extraction` puts them there.

    Row `sample * views + view` of a store belongs to a view of an image. With one view the transform must draw nothing
    at random. With several, a view is a pure function of (image, view), the same in every run, and which one a
    batch takes is one of (seed, epoch, position). Unlike fresh augmentation, the network sees every view in time.

    Args:
        views: fixed augmented views of each image; 1 where nothing is augmented.

    Attributes:
        handle: of the store that holds features.
    """

    def __init__(self, images: LabelledImages, *, transform: Transform, views: int = 1, seed: int = 0) -> None:
        self.images = images
        self.transform = transform
        self.handle = SharedStoreHandle()
        self.views = views
        self.seed = seed
        labels = images.labels
        targets = images.soft_labels if labels is None else torch.tensor(list(labels), dtype=torch.int64)
        if targets is None:
            raise ValueError(f"{type(images).__name__} has neither `labels` nor `soft_labels`.")
        self.targets = targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SampleIndex | int) -> StoredBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[SampleIndex | int]) -> StoredBatch:
        return self.batch(np.array([self.row(index) for index in indices], dtype=np.int64))

    def batch(self, rows: np.ndarray, images: Tensor | None = None) -> StoredBatch:
        """The batch of some rows, int64 (n,), by the store in use now.

        Args:
            images: theirs, where they are decoded already.
        """
        generation, store = self.handle.get()
        targets = self.targets[torch.from_numpy(rows // self.views)]
        if store is not None:
            features, found = store.read(rows)
            if found.all():
                return StoredBatch(features, True, rows, generation, targets)
        images = self.decoded(rows) if images is None else images
        return StoredBatch(images, False, rows, generation, targets)

    def row(self, index: SampleIndex | int) -> int:
        """The row of an index in the store."""
        if not isinstance(index, SampleIndex):
            return index
        view = stable_seed(self.seed, "view", index.epoch, index.position) % self.views if self.views > 1 else 0
        return index.sample * self.views + view

    def rows_of(self, epochs: Iterable[Sequence[SampleIndex]]) -> np.ndarray:
        """The rows, int64, in ascending order and each once, that these samples of one epoch after another take."""
        taken = np.zeros(len(self) * self.views, dtype=bool)
        for samples in epochs:
            taken[[self.row(sample) for sample in samples]] = True
            if taken.all():
                break
        return np.flatnonzero(taken)

    def decoded(self, rows: np.ndarray) -> Tensor:
        """The images of some rows, (n, 3, height, width)."""
        threads = torch.get_num_threads() if self.views == 1 and getattr(self.images, "thread_safe", False) else 1
        with one_thread():
            if min(threads, len(rows)) == 1:
                return torch.stack([self._image(row) for row in rows.tolist()])
            # Pillow releases the interpreter's lock while it decodes: 3.1 -> 2.2 ms an image on two cores. What a
            # thread changes of the process's warning filters is undone here. A `ThreadPool` ends with the process.
            with warnings.catch_warnings(), ThreadPool(threads) as pool:
                return torch.stack(pool.map(self._image, rows.tolist()))

    def _image(self, row: int) -> Tensor:
        sample, view = divmod(row, self.views)
        if self.views == 1:
            return self.transform(self.images[sample][0])
        with seeded("view", sample, view):
            return self.transform(self.images[sample][0])
