"""Batches of images and cached features, and the handle through which all processes read the same store."""

import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from frostline.prefix.store import ADVICE, FeatureStore
from frostline.storage.record_file import RecordFile

LONGEST_PATH = 4096


class MixedBatch(NamedTuple):
    """A batch of n images, m of which are read back as features.

    What the CPU alone needs is no tensor, so that it does not travel to the device.

    Attributes:
        images: those without features, (n - m, 3, height, width).
        missing: their places in the batch, int64 (n - m,).
        features: of the others, in order, (m, *shape); (0,) where there are none.
        rows: the row of each image in the store, int64 (n,).
        generation: which store the features are from; see `SharedStoreHandle`.
        targets: int64 (n,).
    """

    images: Tensor
    missing: np.ndarray
    features: Tensor
    rows: np.ndarray
    generation: int
    targets: Tensor

    def merged(self, computed: Tensor) -> Tensor:
        """Features (n, *shape) of all images: the computed (n - m, *shape) and the stored, in their memory layout."""
        if len(self.missing) == len(self.rows):
            return computed
        found = np.ones(len(self.rows), dtype=bool)
        found[self.missing] = False
        shape, strides = (len(self.rows), *computed.shape[1:]), (computed[0].numel(), *computed.stride()[1:])
        features = computed.new_empty_strided(shape, strides)
        features[torch.from_numpy(self.missing).to(computed.device)] = computed
        features[torch.from_numpy(np.flatnonzero(found)).to(computed.device)] = self.features
        return features


# Images and targets, or images, features and targets.
Batch: TypeAlias = tuple[Tensor, Tensor] | MixedBatch


class SharedStoreHandle:
    """The store in use now, for a dataset in this process or in a loader's worker.

    A worker has a copy of its dataset from the time it was started. The handle's path lies in shared memory, so the
    worker sees a change, and opens the store itself.
    """

    def __init__(self) -> None:
        self._path = torch.zeros(LONGEST_PATH, dtype=torch.uint8).share_memory_()
        # Generations count up; an odd one is being written.
        self._generation = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._opened: tuple[int, FeatureStore | None] = (0, None)

    def put(self, store: FeatureStore | None) -> None:
        """Use this store from now on; None: none."""
        path = b"" if store is None else os.fsencode(store.path.resolve())
        if len(path) > LONGEST_PATH:
            raise ValueError(f"The path of a store has at most {LONGEST_PATH} bytes: {path!r}.")
        self._generation += 1
        self._path[:] = torch.frombuffer(bytearray(path.ljust(LONGEST_PATH, b"\0")), dtype=torch.uint8)
        self._generation += 1
        self._opened = (int(self._generation), store)

    def get(self) -> tuple[int, FeatureStore | None]:
        """The generation, and the store in use."""
        for _ in itertools.repeat(None, 1000):
            generation = int(self._generation)
            if generation == self._opened[0]:
                return self._opened
            path = bytes(self._path.tolist()).rstrip(b"\0")
            if generation % 2 == 0 and generation == int(self._generation):
                store = None
                with suppress(OSError, ValueError):  # deleted meanwhile: its features are computed again
                    store = FeatureStore(RecordFile(Path(os.fsdecode(path)), advice=ADVICE)) if path else None
                self._opened = (generation, store)
                return self._opened
        return -1, None  # the writing process died

    def __getstate__(self) -> dict[str, Tensor]:
        return {"_path": self._path, "_generation": self._generation}

    def __setstate__(self, state: dict[str, Tensor]) -> None:
        self.__dict__.update(state, _opened=(0, None))
