"""One file of numbered records with checksums, shared by processes, written in any order and read back by number.

    48 bytes     magic and version; sizes of the next two parts; number of records; checksum of the next two parts
    description  JSON
    lengths      int64, of each record; a single one where all are equal
    checksums    16 bytes for each record, seeded with its number; 0 where the record is not written
    records      one after another

The file is sparse: a record takes disk space once it is written. A record counts only where its checksum agrees, so a
corrupt or incomplete one (a crash, a full disk, two writers) is missing. Writers of one record write the same bytes.
The file is not memory-mapped: after a truncation records are missing, where a map would end the process (SIGBUS).
"""

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.storage.atomic import atomically
from frostline.storage.checksums import SIZE, checksum
from frostline.storage.locks import locked, reported_wait, share
from frostline.storage.lru import evict, mark_used

MAGIC = b"FROSTRF1"
HEADER = struct.Struct(f"<8s3Q{SIZE}s")


@dataclass(frozen=True, kw_only=True)
class Records:
    """The layout of a record file.

    Attributes:
        count: number of records.
        lengths: bytes of each record, int64 (count,), or of every record.
    """

    count: int
    lengths: int | np.ndarray

    def table(self) -> bytes:
        return np.asarray(self.lengths, np.int64).tobytes()

    def begins(self, first: int) -> Sequence[int]:
        """Where each record begins and the last one ends, if the first begins at `first`."""
        if isinstance(self.lengths, int):
            return range(first, first + self.count * self.lengths + 1, self.lengths)
        return np.concatenate(([0], self.lengths.cumsum())) + first  # type: ignore[return-value]


class RecordFile:
    """A record file that exists; see `open_record_file`. Unpickled, it is opened again.

    Args:
        advice: what to do if the file's lock is never released, as in "type decoded_cache=ANOTHER".

    Attributes:
        about: the description.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is corrupt, of another version, or another kind of file.
    """

    def __init__(self, path: Path, *, advice: str) -> None:
        self.path = path
        self.advice = advice
        self._writable = os.access(path, os.W_OK)
        self._fd = os.open(path, os.O_RDWR if self._writable else os.O_RDONLY)
        with reported_wait(path, advice=advice):
            share(self._fd)
        magic, about, table, count, expected = HEADER.unpack(os.pread(self._fd, HEADER.size, 0).ljust(HEADER.size))
        size = os.fstat(self._fd).st_size
        content = os.pread(self._fd, about + table, HEADER.size) if magic == MAGIC and about + table < size else b""
        if not content or checksum(content, seed=count) != expected:
            raise ValueError(f"{path} is corrupt, or no record file of this version.")
        self.about: dict[str, Any] = json.loads(content[:about])
        lengths = np.frombuffer(content, np.int64, offset=about)
        self.records = Records(count=count, lengths=lengths if len(lengths) == count else int(lengths[0]))
        self._checksums = HEADER.size + len(content)
        self.begins = self.records.begins(self._checksums + SIZE * count)
        if size != self.begins[-1]:
            raise ValueError(f"{path} has another size than its header says.")

    def __len__(self) -> int:
        return self.records.count

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "advice": self.advice}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def close(self) -> None:
        """Close the file, which can then be evicted."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def read_into(self, number: int, buffer: memoryview) -> bool:
        """Read a record into a buffer of its length; False where it is missing or corrupt."""
        expected = os.pread(self._fd, SIZE, self._checksums + SIZE * number)
        if not any(expected):
            return False
        done, begin = 0, self.begins[number]
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], begin + done)
            if not count:
                return False
            done += count
        return checksum(buffer, seed=number) == expected

    def write(self, number: int, content: bytes | memoryview) -> None:
        """Write a record of its length.

        Raises:
            OSError: the disk is full or unreachable, or the file may only be read.
        """
        self._write(content, int(self.begins[number]))
        self._write(checksum(content, seed=number), self._checksums + SIZE * number)

    def _write(self, content: bytes | memoryview, begin: int) -> None:
        left = memoryview(content).cast("B")
        while left:
            count = os.pwrite(self._fd, left, begin)
            left, begin = left[count:], begin + count

    def is_written(self) -> np.ndarray:
        """Which records have a checksum, bool (count,)."""
        found = os.pread(self._fd, SIZE * len(self), self._checksums).ljust(SIZE * len(self), b"\0")
        words = np.frombuffer(found, np.uint64).reshape(-1, SIZE // 8)
        return np.asarray(words.any(axis=1))

    def written(self) -> int:
        """How many records have a checksum."""
        return int(self.is_written().sum())


def open_record_file(
    path: Path,
    *,
    records: Callable[[], Records],
    about: Mapping[str, Any],
    limit: int,
    advice: str,
    lock_limit: float | None = None,
) -> RecordFile:
    """The record file at `path`, created where it is missing, corrupt or described otherwise.

    Args:
        records: called for a new file only.
        about: a description in JSON's types.
        limit: bytes of all files in the folder with the same suffix. Unused ones are evicted for a new one (LRU).
        lock_limit: seconds to wait for the folder's lock; None: no limit.

    Raises:
        OverLimitError, DiskFullError: the file does not fit.
        OSError: the folder or the file cannot be used, or the lock was not free in time.
    """
    with locked(path.parent / ".lock", advice=advice, limit=lock_limit):
        try:
            file = RecordFile(path, advice=advice)
            if file.about != json.loads(json.dumps(about)):
                raise ValueError(f"{path} holds something else.")
        except (FileNotFoundError, ValueError):
            path.unlink(missing_ok=True)
            _create(path, records(), about, limit=limit)
            file = RecordFile(path, advice=advice)
    mark_used(path)
    return file


def _create(path: Path, records: Records, about: Mapping[str, Any], *, limit: int) -> None:
    description, table = json.dumps(about).encode(), records.table()
    content = description + table
    size = int(records.begins(HEADER.size + len(content) + SIZE * records.count)[-1])
    evict(path.parent, suffix=path.suffix, needed=size, limit=limit)
    header = HEADER.pack(MAGIC, len(description), len(table), records.count, checksum(content, seed=records.count))
    with atomically(path) as part, part.open("wb") as file:
        file.write(header + content)
        file.truncate(size)
