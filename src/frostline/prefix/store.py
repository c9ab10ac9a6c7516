"""Features on disk: one row per image, written as they are computed and read back by position.

A store is a folder `<root>/<key>/` of three files: `about.json` (what the rows are), `features` (the rows, one after
another) and `checksums` (8 bytes per row, 0 where the row has not been written). Both data files are sparse: rows that
nobody wrote take no space. A row has the bytes of its features in the order in which they lie in memory, so that what
is read has the strides of what was computed: other strides mean other kernels, and other bits.

Several processes may use one store at once. A row is written before its checksum, and is believed only where the two
agree, so that a torn row (a crash, a full disk, two writers) counts as not there. Writers of one row write the same
bytes, so that it does not matter who wins. Nothing is mapped: of a file that somebody cuts, rows are missing, where a
map would end the process (SIGBUS).
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
import xxhash
from torch import Tensor

from frostline.storage.locks import locked

FORMAT = 2
ABOUT, FEATURES, CHECKSUMS, IN_USE = "about.json", "features", "checksums", "in_use"
LOCK_LIMIT = 60.0  # seconds to wait for another process; then there is no store


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a store holds.

    Attributes:
        count: images, times views.
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
        """Bytes of a row on disk: a multiple of 8."""
        return self.exact_bytes + -self.exact_bytes % 8

    @property
    def exact_bytes(self) -> int:
        """Bytes of a row's features."""
        return prod(self.shape) * self.torch_dtype.itemsize

    @property
    def total_bytes(self) -> int:
        """Bytes of a store in which every row is written."""
        return self.count * (self.row_bytes + 8)

    @property
    def torch_dtype(self) -> torch.dtype:
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    @classmethod
    def from_about(cls, about: Mapping[str, Any]) -> "Rows":
        """From what `about.json` says.

        Raises:
            ValueError: it is of another format.
        """
        if about["format"] != FORMAT:
            raise ValueError(f"a store of format {about['format']}, and this is {FORMAT}")
        shape, strides = tuple(about["shape"]), tuple(about["strides"])
        return cls(count=about["count"], shape=shape, dtype=about["dtype"], strides=strides)


class FeatureStore:
    """A store that exists; see `open_store`.

    Raises:
        ValueError: the files are not what `about.json` says.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._files: dict[str, int] = {}
        self._hold: int | None = None
        try:
            self.rows = Rows.from_about(json.loads((self.folder / ABOUT).read_text()))
            sizes = {FEATURES: self.rows.count * self.rows.row_bytes, CHECKSUMS: self.rows.count * 8}
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError) as error:
            raise ValueError(f"{self.folder / ABOUT} is damaged.") from error
        for name, size in sizes.items():
            if (self.folder / name).stat().st_size != size:
                raise ValueError(f"{self.folder / name} is not of the size that {ABOUT} says.")
        for name in sizes:
            self._files[name] = os.open(self.folder / name, os.O_RDWR)
        self._hold = _hold(self.folder / IN_USE, exclusive=False)

    def close(self) -> None:
        """Let the files go; nothing can be written afterwards."""
        for descriptor in (*self._files.values(), *([] if self._hold is None else [self._hold])):
            os.close(descriptor)
        self._files, self._hold = {}, None

    def __del__(self) -> None:
        if self._files:
            self.close()

    def read(self, places: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The rows that are there.

        Args:
            places: row numbers, int64 (n,).

        Returns:
            Features (found, *shape), and which of the n they are, bool (n,).
        """
        size = self.rows.row_bytes
        raw = np.empty((len(places), size), dtype=np.uint8)
        found = np.zeros(len(places), dtype=bool)
        count, marks, features = 0, self._files[CHECKSUMS], self._files[FEATURES]
        for number, place in enumerate(places.tolist()):
            mark, row = os.pread(marks, 8, place * 8), memoryview(raw[count])
            if any(mark) and os.preadv(features, [row], place * size) == size and checksum(row, place) == mark:
                found[number] = True
                count += 1
        flat = torch.from_numpy(raw[:count, : self.rows.exact_bytes]).reshape(-1).view(self.rows.torch_dtype)
        return flat.as_strided((count, *self.rows.shape), (prod(self.rows.shape), *self.rows.strides)), found

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
        strides = (prod(self.rows.shape), *self.rows.strides)
        laid_out = torch.empty_strided(features.shape, strides, dtype=features.dtype).copy_(features.detach())
        flat = laid_out.as_strided((laid_out.numel(),), (1,)).view(torch.uint8).view(len(features), -1)
        raw = np.zeros((len(features), self.rows.row_bytes), dtype=np.uint8)
        raw[:, : flat.shape[1]] = flat.numpy()
        for place, row in zip(places.tolist(), raw, strict=True):
            _write_whole(self._files[FEATURES], row.data, place * self.rows.row_bytes)
            _write_whole(self._files[CHECKSUMS], checksum(row.data, place), place * 8)

    def written(self) -> int:
        """How many rows have a checksum."""
        marks = os.pread(self._files[CHECKSUMS], self.rows.count * 8, 0)
        return int(np.count_nonzero(np.frombuffer(marks, np.int64, len(marks) // 8)))


def checksum(row: memoryview, place: int) -> bytes:
    """The XXH3 hash of a row's bytes and its number, 8 bytes."""
    return xxhash.xxh3_64_digest(row, seed=place)


def open_store(root: Path, *, key: str, rows: Rows, limit_bytes: int, about: Mapping[str, Any]) -> FeatureStore:
    """The store of that key: the one that is there, or a new one, for which the least recently used ones make room.

    Args:
        limit_bytes: of all stores together, each counted as if every row were written.
        about: what the rows are, for people who look into the folder.

    Raises:
        ValueError: the rows alone are more than the limit, or than the disk has free.
        OSError: the folder cannot be written to.
    """
    folder = root / key
    advice = "type cache.folder=ANOTHER_FOLDER or speed.feature_cache=false"
    with locked(root / ".lock", advice=advice, limit=LOCK_LIMIT):
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
    with suppress(OSError, ValueError):
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
    described = {"format": FORMAT, "count": rows.count, "shape": list(rows.shape), "dtype": rows.dtype}
    described |= {**about, "strides": list(rows.strides)}
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
            size = sum((path.parent / name).stat().st_size for name in (FEATURES, CHECKSUMS))
            yield path.parent, path.stat().st_mtime, size


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
