"""The feature store: one row per image, written as features are computed and read back by row number.

A store is a record file `<folder>/<key>.features`. A row has the bytes of its features in their order in memory, so
that what is read has the strides of what was computed: other strides mean other kernels, and other bits.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.storage.locks import locked
from frostline.storage.record_file import RecordFile, Records, open_record_file

log = logging.getLogger("frostline.features")

FORMAT = 3
LOCK_LIMIT = 60.0  # seconds to wait for another process; then there is no store
SHARED_LOCK_LIMIT = 480.0  # where other ranks wait meanwhile: NCCL's own limit is 600
ADVICE = "type FeatureCache.folder=ANOTHER_FOLDER or feature_cache=None"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a store holds.

    Attributes:
        count: images times views.
        shape: of one row.
        dtype: of one row, as torch names it: `bfloat16`.
        strides: of one row in memory, in elements, without gaps.
    """

    count: int
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's features."""
        return prod(self.shape) * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found


class FeatureStore:
    """Features in a record file; see `open_store`. Pickled for a loader's worker, it opens the file again there."""

    def __init__(self, file: RecordFile) -> None:
        self.path = file.path
        self.file = file
        rows = file.about["rows"]
        self.rows = Rows(**{**rows, "shape": tuple(rows["shape"]), "strides": tuple(rows["strides"])})

    def close(self) -> None:
        """Close the file, which can then be evicted."""
        self.file.close()

    def read(self, places: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The rows that are written.

        Args:
            places: row numbers, int64 (n,).

        Returns:
            Features (found, *shape), and which of the n they are, bool (n,).
        """
        raw = np.empty((len(places), self.rows.row_bytes), dtype=np.uint8)
        found = np.zeros(len(places), dtype=bool)
        count = 0
        for number, place in enumerate(places.tolist()):
            if self.file.read_into(place, raw[count].data):
                found[number] = True
                count += 1
        flat = torch.from_numpy(raw[:count]).reshape(-1).view(self.rows.torch_dtype)
        return flat.as_strided((count, *self.rows.shape), (prod(self.rows.shape), *self.rows.strides)), found

    def write(self, places: np.ndarray, features: Tensor) -> None:
        """Write rows.

        Args:
            places: row numbers, int64 (n,).
            features: (n, *shape), of the store's dtype.

        Raises:
            OSError: the disk is full or unreachable.
        """
        if tuple(features.shape[1:]) != self.rows.shape or features.dtype != self.rows.torch_dtype:
            raise ValueError(f"Rows are {self.rows}; these are {tuple(features.shape)} of {features.dtype}.")
        strides = (prod(self.rows.shape), *self.rows.strides)
        laid_out = torch.empty_strided(features.shape, strides, dtype=features.dtype).copy_(features.detach())
        flat = laid_out.as_strided((laid_out.numel(),), (1,)).view(torch.uint8).view(len(features), -1)
        for place, row in zip(places.tolist(), flat.numpy(), strict=True):
            self.file.write(place, row.data)

    def missing(self, places: np.ndarray, *, check: bool) -> np.ndarray:
        """Those of some rows that are not written, int64.

        Args:
            check: read all of them, and count corrupt ones as missing.
        """
        found = self.file.is_written()[places]
        if check:
            buffer = np.empty(self.rows.row_bytes, dtype=np.uint8).data
            found = np.array([self.file.read_into(place, buffer) for place in places.tolist()], dtype=bool)
        return np.extract(~found, places)

    def written(self) -> int:
        """How many rows have a checksum."""
        return self.file.written()


@contextmanager
def sole_writer(store: FeatureStore, *, limit: float | None) -> Iterator[None]:
    """Wait until no other run writes this store, and keep the others waiting during the block.

    Args:
        limit: longest wait in seconds, after which both write, the same bytes; None: no limit.
    """
    path = store.path.with_suffix(".lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, advice=ADVICE, limit=limit))
        except OSError as error:
            log.warning("Not waiting for another run's features: %s.", error)
        yield
        path.unlink(missing_ok=True)


def open_store(folder: Path, *, key: str, rows: Rows, limit_bytes: int, about: Mapping[str, Any]) -> FeatureStore:
    """The store of that key, created where it is missing or corrupt.

    Args:
        limit_bytes: of all stores in the folder, each counted as if every row were written; unused ones are evicted
            for a new one (LRU).
        about: what the rows are, for people who look into the file: JSON's types.

    Raises:
        OverLimitError, DiskFullError: the store does not fit.
        OSError: the folder cannot be written to.
    """

    def records() -> Records:
        for old in folder.glob("*/in_use"):  # a store of format 2 was a folder
            shutil.rmtree(old.parent, ignore_errors=True)
        return Records(count=rows.count, lengths=rows.row_bytes)

    return FeatureStore(
        open_record_file(
            folder / f"{key}.features",
            records=records,
            about={"format": FORMAT, "rows": asdict(rows), **about},
            limit=limit_bytes,
            advice=ADVICE,
            lock_limit=LOCK_LIMIT,
        )
    )
