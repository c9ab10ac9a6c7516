"""Labelled image files: read, checked before a run, and identified by their content."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from frostline.data.cores import usable_cores
from frostline.data.decoded_cache import DecodedCache, cached_images
from frostline.data.decoding import MAX_PIXELS, decode_image, decoded_size, decoder_identity, opened_image
from frostline.data.image_file import UnreadableImage
from frostline.data.pixel_depth import depth_of
from frostline.data.source import LabelledImage, LabelledImages
from frostline.storage.checksums import fingerprint

JPEG_END = b"\xff\xd9"
CHECKED_AT_ONCE = 64  # images of a thread's turn


class LabelledFile(NamedTuple):
    """A path and its class index."""

    path: str
    label: int


class FileImages(LabelledImages):
    """One split of labelled files, decoded when they are read.

    Args:
        max_pixels: larger images are errors, before they are decoded.
        scaled_decoding: let `for_shorter_side` decode large JPEGs at reduced size (`frostline.data.decoding`).
        cache: of the decoded images that `for_shorter_side` gives; None for none.

    Raises:
        UnreadableImage: on reading a broken file; names it.
    """

    thread_safe = True

    def __init__(
        self,
        files: Sequence[LabelledFile],
        *,
        max_pixels: int = MAX_PIXELS,
        scaled_decoding: bool = False,
        cache: DecodedCache | None = None,
    ) -> None:
        self.files = files
        self.paths = [file.path for file in files]
        self._labels = [file.label for file in files]
        self.max_pixels = max_pixels
        self.scaled_decoding = scaled_decoding
        self.cache = cache
        self.shorter_side: int | None = None

    @property
    def labels(self) -> Sequence[int]:
        return self._labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> LabelledImage:
        image = decode_image(self.paths[index], max_pixels=self.max_pixels, shorter_side=self.shorter_side)
        return image, self._labels[index]

    def for_shorter_side(self, pixels: int) -> LabelledImages:
        """The same images for a transform that makes use of so many pixels of the shorter side: see
        `frostline.data.source.ScalableImages`.

        Raises:
            ValueError: the decoded images would take more than the cache's limit, or its folder cannot be used.
        """
        images = FileImages(self.files, max_pixels=self.max_pixels)
        images.shorter_side = pixels if self.scaled_decoding else None
        if self.cache is None:
            return images
        return cached_images(images, self.cache, key=images.identity, sizes=images.decoded_sizes)

    @property
    def identity(self) -> str:
        """A hash of the files (see `file_states`) and of everything else that decides the pixels."""
        files = zip(self.paths, file_states(self.paths), strict=True)
        parts = ((decoder_identity(), self.shorter_side, self.max_pixels), *files)
        return fingerprint(repr(part).encode() for part in parts)

    def subset(self, indices: Sequence[int]) -> "FileImages":
        """The images at these places."""
        files = [self.files[index] for index in indices]
        return FileImages(files, max_pixels=self.max_pixels, scaled_decoding=self.scaled_decoding, cache=self.cache)

    def broken(self, *, thorough: bool = False) -> dict[int, UnreadableImage]:
        """Position -> reason, of the files that `check_image` finds broken."""
        return broken_among(self.paths, max_pixels=self.max_pixels, thorough=thorough)

    def decoded_sizes(self) -> list[tuple[int, int] | None]:
        """Width and height of each image as it is decoded, from the headers; None for one that cannot be read."""
        sizes: list[tuple[int, int] | None] = []
        for path in self.paths:
            try:
                sizes.append(decoded_size(path, max_pixels=self.max_pixels, shorter_side=self.shorter_side))
            except UnreadableImage:
                sizes.append(None)  # an error when the image is read
        return sizes


def file_states(paths: Sequence[str]) -> list[tuple[int, ...] | None]:
    """Size, time of the content, time of the inode and inode of each file; None for one that is not there.

    The inode's time cannot be set, so that changed content shows even under the same size and time. A copy counts as
    another file: comparing contents means reading them (the states of 1,000 files of 110 kB take 3 ms, their contents
    90 ms from memory, minutes from a network drive).
    """
    states = [_state(path) for path in paths]
    newest = max((state[2] for state in states if state), default=0)
    # Clocks of file systems tick every few milliseconds, or every second or two where no fraction of one is kept.
    tick = 2 * 10**9 if newest % 10**9 == 0 else 2 * 10**7
    if time.time_ns() - newest < tick:
        # What is written before the next tick would have the same time.
        time.sleep(tick / 10**9)
        states = [_state(path) for path in paths]
    return states


def _state(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path for each takes twice the time
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def check_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, thorough: bool = False) -> None:
    """See that a file can be decoded, at less cost than decoding it where that is possible.

    Of a PNG of 8 bits the checksums are compared, of a JPEG the header and the last bytes are looked at. One that is
    not as it should be is decoded, and so is every other image.

    Args:
        thorough: decode every image, JPEGs of several megapixels at reduced size.

    Raises:
        UnreadableImage: as `decode_image`. Not of a JPEG or PNG with a proper end whose content only a decoder finds
            broken, unless `thorough`.
    """
    if not thorough:
        file = Path(path)
        with opened_image(file, max_pixels=max_pixels, shorter_side=None) as image:
            if image.format == "JPEG":
                with file.open("rb") as content:
                    content.seek(-len(JPEG_END), os.SEEK_END)
                    if content.read() == JPEG_END:
                        return
            elif image.format == "PNG" and depth_of(image, file) is None:
                with suppress(Exception):  # nearly anything, and a decoder may still make an image of it
                    image.verify()
                    return
    decode_image(path, max_pixels=max_pixels, shorter_side=1)


def broken_among(
    paths: Sequence[str], *, max_pixels: int = MAX_PIXELS, thorough: bool = False
) -> dict[int, UnreadableImage]:
    """Position -> what is wrong with it, of the files that cannot be read; as many are checked at a time as there are
    cores."""

    def check(first: int) -> dict[int, UnreadableImage]:
        found = {}
        for position, path in enumerate(paths[first : first + CHECKED_AT_ONCE], start=first):
            try:
                check_image(path, max_pixels=max_pixels, thorough=thorough)
            except UnreadableImage as error:
                found[position] = error
        return found

    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(check, range(0, len(paths), CHECKED_AT_ONCE)))
    return {position: error for part in parts for position, error in part.items()}
