"""On-disk cache of a split's decoded images, shared by epochs, runs and the processes of a machine.

A record file `<key>.images`; a record is an image's height and width (uint32) and its pixels, uint8 (height, width, 3).
"""

import errno
import logging
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from frostline.data.source import LabelledImage, LabelledImages
from frostline.storage.lru import DiskFullError, OverLimitError
from frostline.storage.record_file import RecordFile, Records, open_record_file

log = logging.getLogger(__name__)

GIB = 2**30
SIZE = struct.Struct("<2I")
ADVICE = "type decoded_cache=ANOTHER_FOLDER or decoded_cache=None"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class DecodedCache:
    """Where decoded images are cached.

    Attributes:
        folder: on a local disk; several processes of one machine may share it, several machines not.
        limit: bytes that the folder may take.
    """

    folder: Path
    limit: int


def decoded_cache(folder: str | os.PathLike[str] | None, *, limit: float) -> DecodedCache | None:
    """The cache of a config's values, with the limit in GiB; None without a folder."""
    return None if folder is None else DecodedCache(folder=Path(folder).expanduser(), limit=int(limit * GIB))


class CachedImages(LabelledImages):
    """Images read from a record file where they are in it, else decoded and written to it."""

    def __init__(self, images: LabelledImages, file: RecordFile) -> None:
        self.images = images
        self.file = file
        self._full = False

    @property
    def labels(self) -> Sequence[int] | None:
        return self.images.labels

    @property
    def identity(self) -> str | None:
        return self.images.identity

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LabelledImage:
        pixels, labels = self.read(index), self.labels
        if pixels is not None and labels is not None:
            return pixels, labels[index]
        image, label = self.images[index]
        assert isinstance(image, Image.Image)
        self.write(index, image)
        return image, label

    def read(self, index: int) -> torch.Tensor | None:
        """Pixels uint8 (3, height, width); None for an image that is missing or corrupt."""
        record = torch.empty(int(self.file.begins[index + 1] - self.file.begins[index]), dtype=torch.uint8)
        content = record.numpy().data
        if not self.file.read_into(index, content):
            return None
        height, width = SIZE.unpack_from(content)
        # The strides that torchvision's ToImage gives, so that the next transform computes the same.
        return record[SIZE.size :].view(height, width, 3).permute(2, 0, 1)

    def write(self, index: int, image: Image.Image) -> None:
        """Write an image, unless its header announced another size.

        On a full disk this process writes no more, and logs that once.
        """
        content = SIZE.pack(image.height, image.width) + image.tobytes()
        if self._full or len(content) != self.file.begins[index + 1] - self.file.begins[index]:
            return
        try:
            self.file.write(index, content)
        except OSError as error:
            if error.errno not in (*NO_SPACE, errno.EBADF):  # EBADF: a cache that this process may only read
                raise
            self._full = True
            if error.errno in NO_SPACE:
                log.warning("decoded_cache: no space left on the disk of %s; images are not cached.", self.file.path)


def cached_images(
    images: LabelledImages, cache: DecodedCache, *, key: str, sizes: Callable[[], Sequence[tuple[int, int] | None]]
) -> LabelledImages:
    """The images, read from the cache's file of that key; as they are, and a warning, where the disk has no space.

    Args:
        key: a hash of everything that the pixels depend on.
        sizes: width and height of each image, None for one that is not to be cached. Called for a new file only,
            because it reads every header.

    Raises:
        ValueError: the file would take more than the limit, or the folder cannot be used.
    """

    path = cache.folder / f"{key}.images"

    def records() -> Records:
        for old in cache.folder.glob("*.packed"):  # of an earlier version of frostline
            old.unlink()
        lengths = [SIZE.size + 3 * size[0] * size[1] if size else 0 for size in sizes()]
        log.info("decoded_cache: %s images are cached in %s, up to %.2f GiB", len(lengths), path, sum(lengths) / GIB)
        return Records(count=len(lengths), lengths=np.array(lengths, np.int64))

    try:
        file = open_record_file(path, records=records, about={}, limit=cache.limit, advice=ADVICE)
    except OverLimitError as error:
        beside = f", beside {error.in_use / GIB:.2f} GiB in use there" if error.in_use else ""
        raise ValueError(
            f"decoded_cache: {len(images):,} decoded images take {error.needed / GIB:.2f} GiB{beside}, more than "
            f"decoded_cache_limit={cache.limit / GIB:g}. Type decoded_cache_limit="
            f"{(error.in_use + error.needed) / GIB + 0.01:.2f} or more, or decoded_cache=None."
        ) from error
    except DiskFullError as error:
        log.warning(
            "decoded_cache: %.2f GiB are needed and %.2f GiB are free on the disk of %s; images are not cached.",
            error.needed / GIB,
            error.free / GIB,
            cache.folder,
        )
        return images
    except OSError as error:
        raise ValueError(f"decoded_cache={cache.folder}: cannot be used ({error}).") from error
    return CachedImages(images, file)
