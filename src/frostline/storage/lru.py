"""A folder of cache files under a byte limit: LRU eviction."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from frostline.storage.locks import is_unused

ABANDONED = 3600.0  # seconds after which a temporary file counts as left by a killed process


class OverLimitError(ValueError):
    """A file is larger than the limit leaves space for.

    Attributes:
        needed: bytes of the file.
        in_use: bytes of the files that cannot be evicted.
    """

    def __init__(self, *, needed: int, in_use: int, limit: int) -> None:
        self.needed, self.in_use = needed, in_use
        beside = f" beside {gigabytes(in_use)} in use" if in_use else ""
        super().__init__(f"they would take {gigabytes(needed)}{beside}, more than the limit of {gigabytes(limit)}")


class DiskFullError(OSError):
    """A file is larger than what the disk has free.

    Attributes:
        needed: bytes of the file.
        free: bytes that the disk has free.
    """

    def __init__(self, *, needed: int, free: int) -> None:
        self.needed, self.free = needed, free
        super().__init__(f"they would take {gigabytes(needed)}, and the disk has {gigabytes(free)} free")


def mark_used(path: Path) -> None:
    """Record that a cache file is used now. A file that this process may only read keeps its time."""
    with suppress(PermissionError):
        os.utime(path)


def evict(folder: Path, *, suffix: str, needed: int, limit: int) -> None:
    """Remove the least recently used files with this suffix until a new one fits. Call it under the folder's lock.

    Files in use (`frostline.storage.locks.share`) stay. Temporary files (`.part`) count, and are removed after an hour.

    Args:
        needed: bytes of the new file.
        limit: bytes of all files.

    Raises:
        OverLimitError: the files that stay leave too little of the limit.
        DiskFullError: the files that stay leave too little of the disk.
    """
    if needed > limit:
        raise OverLimitError(needed=needed, in_use=0, limit=limit)
    files, total = [], 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found = path.stat()
            if path.suffix in (suffix, ".part"):
                total += found.st_size
            if path.suffix == suffix or (path.suffix == ".part" and time.time() - found.st_mtime > ABANDONED):
                files.append((found.st_mtime, found.st_size, path))
    for _, size, path in sorted(files):
        if total + needed <= limit and needed <= shutil.disk_usage(folder).free:
            return
        with suppress(FileNotFoundError):
            if is_unused(path):
                path.unlink()
                total -= size
    if total + needed > limit:
        raise OverLimitError(needed=needed, in_use=total, limit=limit)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(needed=needed, free=free)


def gigabytes(count: int) -> str:
    """A number of bytes as people read it, in units of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.1f} kB"
