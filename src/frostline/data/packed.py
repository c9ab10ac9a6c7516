"""Decoded images of a split in one file: decoded by whoever is first, read by later epochs, runs and ranks.

Layout: a header (magic, number of images, a check sum of the tables), two tables (where each image's bytes begin; its
height and width), a word for each image with its check sum, 0 where it is not there, and the pixels, uint8
`(height, width, 3)` one image after the other. The file is made with holes; an image takes room on the disk when it is
written. Images are written and read by position in place of a memory map: a full disk or a file that somebody cut short
is then an error that can be handled, where a map ends the process (SIGBUS).
"""

import errno
import logging
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from PIL import Image

from frostline.data.source import LabelledImage, LabelledImages
from frostline.storage.locks import locked, reported_wait

log = logging.getLogger(__name__)

GIB = 2**30
MAGIC = b"FROSTPK2"
HEADER = struct.Struct("<8sQQ")  # magic, images, check sum of the tables
PAGE = 4096
WAY_OUT = "type data.packed=ANOTHER_FOLDER or data.packed=null"
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Where decoded images are kept, and how much of it.

    Attributes:
        folder: on a local disk; several processes of one machine may share it, several machines not.
        limit: bytes that the folder may take.
    """

    folder: Path
    limit: int


def packing(folder: str | os.PathLike[str] | None, *, limit: float) -> Packing | None:
    """From what a config says, with the limit in GiB."""
    return None if folder is None else Packing(folder=Path(folder).expanduser(), limit=int(limit * GIB))


class PackedFile:
    """One such file, open in this process. Every process that has it open keeps it from being evicted.

    Raises:
        ValueError: it is no such file, or its tables are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def _open(self) -> None:
        self._writable = os.access(self.path, os.W_OK)
        self._fd = os.open(self.path, os.O_RDWR if self._writable else os.O_RDONLY)
        with reported_wait(self.path, advice=WAY_OUT):
            _lock(self._fd)
        magic, count, expected = HEADER.unpack(os.pread(self._fd, HEADER.size, 0).ljust(HEADER.size, b"\0"))
        tables = os.pread(self._fd, 8 * count + 8 * count + 8, HEADER.size) if magic == MAGIC else b""
        if magic != MAGIC or xxhash.xxh3_64_intdigest(tables) != expected:
            os.close(self._fd)
            self._fd = -1
            raise ValueError(f"{self.path}: no file of packed images, or a damaged one.")
        self.starts = np.frombuffer(tables, np.int64, count + 1)
        self.sizes = np.frombuffer(tables, np.uint32, 2 * count, offset=8 * (count + 1)).reshape(count, 2)
        self._words = HEADER.size + len(tables)

    def __len__(self) -> int:
        return len(self.sizes)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path = path
        self._open()

    def read(self, index: int) -> torch.Tensor | None:
        """Pixels uint8 `(3, height, width)`, or None where the image is not there or its bytes are not those written.

        Comparing the check sum takes 0.1 ms a megabyte.
        """
        start, stop = int(self.starts[index]), int(self.starts[index + 1])
        if start == stop:
            return None
        word = os.pread(self._fd, 8, self._words + 8 * index)
        if not any(word):
            return None
        pixels = torch.empty(stop - start, dtype=torch.uint8)
        buffer: Any = pixels.numpy()
        if _read_into(self._fd, memoryview(buffer), start) < stop - start:
            return None
        if xxhash.xxh3_64_digest(buffer, seed=index) != word:
            return None
        height, width = (int(side) for side in self.sizes[index])
        # Strides as torchvision's ToImage leaves them, so that what follows computes the same.
        return pixels.view(height, width, 3).permute(2, 0, 1)

    def write(self, index: int, image: Image.Image) -> None:
        """Keep an image, unless its size is not the one that its file's header promised.

        On a full disk nothing more is written by this process, and that is logged once.
        """
        if not self._writable or image.size != (self.sizes[index, 1], self.sizes[index, 0]):
            return
        content = image.tobytes()
        try:
            _write_all(self._fd, content, int(self.starts[index]))
            # After the pixels: whoever reads between the two finds no image, not half of one.
            _write_all(self._fd, xxhash.xxh3_64_digest(content, seed=index), self._words + 8 * index)
        except OSError as error:
            if error.errno not in DISK_IS_FULL:
                raise
            self._writable = False
            log.warning("data.packed: no space left on the disk of %s; images are decoded as without it.", self.path)

    def count(self) -> int:
        """Images that are there."""
        words = np.frombuffer(os.pread(self._fd, 8 * len(self), self._words), np.uint64)
        return int((words != 0).sum())


class PackedImages(LabelledImages):
    """Images that are read from a packed file where they are in it, and else decoded and written to it."""

    def __init__(self, images: LabelledImages, packed: PackedFile) -> None:
        self.images = images
        self.packed = packed

    @property
    def labels(self) -> Sequence[int] | None:
        return self.images.labels

    @property
    def identity(self) -> str | None:
        return self.images.identity

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LabelledImage:
        pixels, labels = self.packed.read(index), self.labels
        if pixels is not None and labels is not None:
            return pixels, labels[index]
        image, label = self.images[index]
        assert isinstance(image, Image.Image)
        self.packed.write(index, image)
        return image, label


def open_packed(packing: Packing, *, key: str, sizes: Callable[[], Sequence[Size | None]]) -> PackedFile | None:
    """The file of that key, made if it is not there; None where the disk has no room for it, which is logged.

    Older files that no process uses make room, the longest unused first.

    Args:
        key: names all that the pixels depend on.
        sizes: width and height of each image, None for one that is not to be kept; asked for a new file only, because
            reading every header takes time.

    Raises:
        ValueError: it would take more than the limit, or the folder cannot be written to.
    """
    path = packing.folder / f"{key}.packed"
    try:
        # One process of several makes the file, the others wait for it.
        with locked(packing.folder / ".lock", advice=WAY_OUT):
            opened = _existing(path)
            if opened is None:
                opened = _made(path, packing, sizes())
    except OSError as error:
        raise ValueError(f"data.packed={packing.folder}: cannot be used ({error}).") from error
    return opened


def _existing(path: Path) -> PackedFile | None:
    if not path.exists():
        return None
    try:
        opened = PackedFile(path)
    except ValueError:
        path.unlink()
        return None
    if os.access(path, os.W_OK):
        os.utime(path)  # the time of the last use, for eviction
    return opened


def _made(path: Path, packing: Packing, sizes: Sequence[Size | None]) -> PackedFile | None:
    shapes = np.array([(size[1], size[0]) if size else (0, 0) for size in sizes], np.uint32).reshape(-1, 2)
    lengths = 3 * shapes[:, 0].astype(np.int64) * shapes[:, 1]
    first = HEADER.size + 8 * (len(shapes) + 1) + 8 * len(shapes) + 8 * len(shapes)
    first += -first % PAGE
    starts = np.concatenate(([0], lengths.cumsum())) + first
    total = int(starts[-1])
    kept = _make_room(packing, total)
    if kept + total > packing.limit:
        used = f", beside {kept / GIB:.2f} GiB in use there" if kept else ""
        raise ValueError(
            f"data.packed: {len(shapes):,} decoded images take {total / GIB:.2f} GiB{used}, more than "
            f"data.packed_limit={packing.limit / GIB:g}. Type data.packed_limit={(kept + total) / GIB + 0.01:.2f} or "
            "more, or data.packed=null."
        )
    free = shutil.disk_usage(packing.folder).free
    if free < total:
        log.warning(
            "data.packed: %.2f GiB are needed and %.2f GiB are free on the disk of %s; images are decoded as without "
            "it.",
            total / GIB,
            free / GIB,
            packing.folder,
        )
        return None
    tables = starts.tobytes() + shapes.tobytes()
    unfinished = path.with_suffix(f".{os.getpid()}")
    with unfinished.open("wb") as file:
        file.write(HEADER.pack(MAGIC, len(shapes), xxhash.xxh3_64_intdigest(tables)) + tables)
        file.truncate(total)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    log.info("data.packed: %s images are kept in %s, up to %.2f GiB", f"{len(shapes):,}", path, total / GIB)
    return PackedFile(path)


def _make_room(packing: Packing, needed: int) -> int:
    """Remove unused files, the longest unused first, while the limit asks for it; the bytes of those that stay."""
    files = sorted(packing.folder.glob("*.packed"), key=lambda file: file.stat().st_mtime)
    held = sum(file.stat().st_size for file in files)
    for file in files:
        if held + needed <= packing.limit:
            break
        if _unused(file):
            held -= file.stat().st_size
            file.unlink()
    return held


def _unused(file: Path) -> bool:
    fd = os.open(file, os.O_RDONLY)
    try:
        _lock(fd, alone=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _lock(fd: int, *, alone: bool = False) -> None:
    """Say that the file is in use, for as long as a process has `fd` or a copy of it open.

    Raises:
        BlockingIOError: with `alone`, somebody else uses it.
    """
    import fcntl  # not on Windows, where all else here runs

    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)


def _read_into(fd: int, buffer: Any, start: int) -> int:
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], start + done)
        if not count:
            break
        done += count
    return done


def _write_all(fd: int, content: bytes, start: int) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(fd, view, start)
        view, start = view[count:], start + count
