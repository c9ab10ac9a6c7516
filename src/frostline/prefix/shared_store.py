"""The handle through which all processes read the same store."""

import itertools
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from frostline.prefix.store import ADVICE, FeatureStore
from frostline.storage.record_file import RecordFile

LONGEST_PATH = 4096


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
                with suppress(OSError, ValueError):  # deleted meanwhile: its images are read instead
                    store = FeatureStore(RecordFile(Path(os.fsdecode(path)), advice=ADVICE)) if path else None
                self._opened = (generation, store)
                return self._opened
        return -1, None  # the writing process died

    def __getstate__(self) -> dict[str, Tensor]:
        return {"_path": self._path, "_generation": self._generation}

    def __setstate__(self, state: dict[str, Tensor]) -> None:
        self.__dict__.update(state, _opened=(0, None))
