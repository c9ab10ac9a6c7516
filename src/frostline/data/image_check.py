"""Find the image files that cannot be decoded, before a run."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from frostline.data.cores import usable_cores
from frostline.data.decoding import MAX_PIXELS, decode_image, opened_image
from frostline.data.image_file import UnreadableImage
from frostline.data.pixel_depth import depth_of

JPEG_END = b"\xff\xd9"
CHECKED_AT_ONCE = 64  # images of a thread's turn


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
