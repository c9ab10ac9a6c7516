"""Features on disk: one row per image, written as they are computed and read back memory-mapped.

A store is a folder `<root>/<key>/` of three files: `about.json` (what the rows are), `features` (the rows, one after
another) and `checksums` (an int64 per row, 0 where the row has not been written). Both data files are sparse: rows that
nobody wrote take no space.

Several processes may use one store at once. A row is written before its checksum, and is believed only where the two
agree, so that a torn row (a crash, a full disk, two writers) counts as not there. Writers of one row write the same
bytes, so that it does not matter who wins.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

FORMAT = 1
ABOUT, FEATURES, CHECKSUMS, IN_USE = "about.json", "features", "checksums", "in_use"
# Odd, so that multiplying by it modulo 2^64 loses nothing.
MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a store holds.

    Attributes:
        count: images, times views.
        shape: of one row.
        dtype: of one row, as torch names it: `bfloat16`.
    """

    count: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a row on disk: a multiple of 8, the checksum's word."""
        exact = prod(self.shape) * self.torch_dtype.itemsize
        return exact + -exact % 8

    @property
    def total_bytes(self) -> int:
        """Bytes of a store in which every row is written."""
        return self.count * (self.row_bytes + 8)

    @property
    def torch_dtype(self) -> torch.dtype:
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found


class FeatureStore:
    """A store that exists; see `open_store`.

    Raises:
        ValueError: the files are not what `about.json` says.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        about = json.loads((self.folder / ABOUT).read_text())
        self.rows = Rows(count=about["count"], shape=tuple(about["shape"]), dtype=about["dtype"])
        sizes = {FEATURES: self.rows.count * self.rows.row_bytes, CHECKSUMS: self.rows.count * 8}
        for name, size in sizes.items():
            if (self.folder / name).stat().st_size != size:
                raise ValueError(f"{self.folder / name} is not of the size that {ABOUT} says.")
        self._features = np.memmap(
            self.folder / FEATURES, dtype=np.uint8, mode="r", shape=(self.rows.count, self.rows.row_bytes)
        )
        self._checksums = np.memmap(self.folder / CHECKSUMS, dtype=np.int64, mode="r", shape=(self.rows.count,))
        self._files = {name: os.open(self.folder / name, os.O_WRONLY) for name in sizes}
        self._hold = _hold(self.folder / IN_USE, exclusive=False)

    def close(self) -> None:
        """Let the files go; nothing can be written afterwards."""
        for descriptor in (*self._files.values(), *([] if self._hold is None else [self._hold])):
            os.close(descriptor)
        self._files, self._hold = {}, None

    def __del__(self) -> None:
        if getattr(self, "_files", None):
            self.close()

    def read(self, places: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The rows that are there.

        Args:
            places: row numbers, int64 (n,).

        Returns:
            Features (found, *shape), and which of the n they are, bool (n,).
        """
        marks = self._checksums[places]
        found = marks != 0
        raw = self._features[places[found]]
        whole = checksums(raw, places[found]) == marks[found]
        if not whole.all():
            raw = raw[whole]
            found[np.flatnonzero(found)[~whole]] = False
        exact = prod(self.rows.shape) * self.rows.torch_dtype.itemsize
        flat = torch.from_numpy(np.ascontiguousarray(raw[:, :exact])).reshape(-1)
        return flat.view(self.rows.torch_dtype).reshape(len(raw), *self.rows.shape), found

    def write(self, places: np.ndarray, features: Tensor) -> None:
        """Write rows.

        Args:
            places: row numbers, int64 (n,).
            features: (n, *shape), of the store's dtype.

        Raises:
            OSError: the disk is full, or gone.
        """
        if tuple(features.shape[1:]) != self.rows.shape or features.dtype != self.rows.torch_dtype:
            raise ValueError(f"Rows are {self.rows}; these are {tuple(features.shape)} of {features.dtype}.")
        flat = features.detach().cpu().contiguous().reshape(len(features), -1).view(torch.uint8).numpy()
        raw = np.zeros((len(features), self.rows.row_bytes), dtype=np.uint8)
        raw[:, : flat.shape[1]] = flat
        marks = checksums(raw, places)
        # pwrite, not the map: a full disk is an OSError here, and a SIGBUS there.
        for place, row, mark in zip(places.tolist(), raw, marks, strict=True):
            _write_whole(self._files[FEATURES], row.data, place * self.rows.row_bytes)
            _write_whole(self._files[CHECKSUMS], mark.tobytes(), place * 8)

    def written(self) -> int:
        """How many rows have a checksum."""
        return int(np.count_nonzero(self._checksums))


def checksums(raw: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A 64-bit checksum of each row, never 0: the sum of its words and its number, each times an odd number of its own.

    Args:
        raw: bytes (n, row_bytes).
        places: row numbers (n,).
    """
    words = raw.view(np.int64)
    odd = (2 * np.arange(words.shape[1], dtype=np.int64) + 1) * np.int64(MULTIPLIER)
    with np.errstate(over="ignore"):  # modulo 2^64 is meant
        sums: np.ndarray = (words * odd).sum(axis=1) + (places + 1) * np.int64(MULTIPLIER)
    sums[sums == 0] = 1
    return sums


def open_store(root: Path, *, key: str, rows: Rows, limit_bytes: int, about: Mapping[str, Any]) -> FeatureStore:
    """The store of that key: the one that is there, or a new one, for which the least recently used ones make room.

    Args:
        limit_bytes: of all stores together, each counted as if every row were written.
        about: what the rows are, for people who look into the folder.

    Raises:
        ValueError: the rows alone are more than the limit, or than the disk has free.
        OSError: the folder cannot be written to.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / key
    with FileLock(root / ".lock"):
        store = _existing(folder, rows)
        if store is None:
            _make_room(root, rows.total_bytes, limit_bytes=limit_bytes)
            _create(folder, rows, about)
            store = FeatureStore(folder)
    os.utime(folder / ABOUT)  # the time of its last use
    return store


def _existing(folder: Path, rows: Rows) -> FeatureStore | None:
    if not folder.is_dir():
        return None
    with suppress(OSError, ValueError, KeyError):
        store = FeatureStore(folder)
        if store.rows == rows:
            return store
    _remove(folder)  # torn
    return None


def _create(folder: Path, rows: Rows, about: Mapping[str, Any]) -> None:
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    for name, size in ((FEATURES, rows.count * rows.row_bytes), (CHECKSUMS, rows.count * 8)):
        with (new / name).open("wb") as file:
            file.truncate(size)
    (new / IN_USE).touch()
    described = {"format": FORMAT, "count": rows.count, "shape": list(rows.shape), "dtype": rows.dtype, **about}
    (new / ABOUT).write_text(json.dumps(described, indent=1) + "\n")
    new.rename(folder)


def _make_room(root: Path, needed: int, *, limit_bytes: int) -> None:
    """Remove what was used longest ago and is not in use now, until the new store fits.

    Raises:
        ValueError: it does not fit even so.
    """
    if needed > limit_bytes:
        raise ValueError(f"they would take {gigabytes(needed)}, more than the limit of {gigabytes(limit_bytes)}")
    for left in root.glob(".new-*"):  # of a process that was killed while it held the lock
        shutil.rmtree(left, ignore_errors=True)
    stores = sorted(_stores(root), key=lambda store: store[1])
    total = sum(size for _, _, size in stores)
    for folder, _, size in stores:
        if total + needed <= limit_bytes and needed <= shutil.disk_usage(root).free:
            return
        hold = _hold(folder / IN_USE, exclusive=True)
        if hold is not None:
            _remove(folder)
            os.close(hold)
            total -= size
    if total + needed > limit_bytes:
        raise ValueError(
            f"they would take {gigabytes(needed)}, and stores in use hold {gigabytes(total)} "
            f"of the limit of {gigabytes(limit_bytes)}"
        )
    free = shutil.disk_usage(root).free
    if needed > free:
        raise ValueError(f"they would take {gigabytes(needed)}, and the disk has {gigabytes(free)} free")


def _stores(root: Path) -> Iterator[tuple[Path, float, int]]:
    """Folder, time of last use and bytes when full, of each store."""
    for path in root.glob(f"*/{ABOUT}"):
        with suppress(OSError, ValueError, KeyError, AttributeError):
            about = json.loads(path.read_text())
            rows = Rows(count=about["count"], shape=tuple(about["shape"]), dtype=about["dtype"])
            yield path.parent, path.stat().st_mtime, rows.total_bytes


def _remove(folder: Path) -> None:
    """Out of sight first: whoever has it open keeps its files, and nobody opens half of it."""
    away = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    folder.rename(away / folder.name)
    shutil.rmtree(away, ignore_errors=True)


def _hold(path: Path, *, exclusive: bool) -> int | None:
    """A lock on a file that ends with the process; None where others hold it, or where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not let anybody remove an open file anyway
        return os.open(path, os.O_RDONLY)
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _write_whole(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    left = memoryview(data).cast("B")
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count


def gigabytes(count: int) -> str:
    """A number of bytes as people read it, in units of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.1f} kB"
