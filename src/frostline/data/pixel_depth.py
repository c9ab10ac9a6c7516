"""More than 8 bits a value: how a file stores them, and how they become 8."""

import io
import logging
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image

from frostline.data.image_file import FORMATS, ImageBytes, opened_bytes

log = logging.getLogger(__name__)

BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE = 258, 262, 281  # TIFF tags
SAMPLE_FORMAT = 339
WHITE_IS_ZERO, SIGNED = 0, 2
PNG_SIGNATURE = 8  # bytes
DEEPEST = 65_535  # the largest value of 16 bits
NEARLY_BLACK = 4096  # 16-bit values that all lie below come out as 0 to 15 of 255


class Depth(NamedTuple):
    """How a file with more than 8 bits a value stores them.

    Attributes:
        rawmode: Pillow's word for the layout.
        largest: what the file says that the largest value may be; None where it says nothing.
        type_maximum: the largest value of the type that it uses, 16 bits with or without a sign.
        inverted: 0 is white.
    """

    rawmode: str
    largest: int | None
    type_maximum: int
    inverted: bool


def depth_of(image: Image.Image, file: Path | ImageBytes) -> Depth | None:
    """Of an opened image, before its pixels; None for 8 bits and fewer."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else None
    rawmode = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments or "")
    if ";16" not in rawmode and image.mode[0] != "I":
        return None
    largest, tags = None, getattr(image, "tag_v2", {})
    if image.format == "PNG" and (bits := _significant_bits(file)):
        largest = 2**bits - 1
    elif image.format == "PPM":
        largest = DEEPEST  # its header states the range, and Pillow scales by it
    elif image.format == "TIFF":
        bits = max(tags.get(BITS_PER_SAMPLE, (16,)))
        stated = tags.get(MAX_SAMPLE_VALUE, DEEPEST)
        stated = max(stated) if isinstance(stated, tuple) else stated
        largest = min(stated or DEEPEST, 2**bits - 1)
        largest = None if largest >= DEEPEST else int(largest)  # 16 bits is what TIFFs of any range say
    signed = SIGNED in tags.get(SAMPLE_FORMAT, ()) and "16" in rawmode
    return Depth(
        rawmode,
        largest,
        DEEPEST // 2 if signed else DEEPEST,
        image.mode[0] == "I" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO,
    )


def _significant_bits(file: Path | ImageBytes) -> int | None:
    """The most that a PNG's sBIT chunk, which Pillow passes over, says of any channel; None without one."""
    with opened_bytes(file) as stream:
        stream.seek(PNG_SIGNATURE)
        while len(head := stream.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"sBIT":
                return max(stream.read(length), default=None)
            if kind in (b"PLTE", b"IDAT"):  # sBIT comes before them
                return None
            stream.seek(length + 4, os.SEEK_CUR)
    return None


def eight_bits(image: Image.Image, depth: Depth, file: Path | ImageBytes) -> Image.Image:
    """A loaded grey or RGB image of more than 8 bits, scaled to 8."""
    values = np.asarray(image)
    if image.mode == "RGB":
        # Pillow keeps the upper 8 bits of RGB. They do where the file uses all 16.
        if values.max() > (0 if depth.largest is None else depth.largest >> 8):
            return image
        values = values.astype(np.int64) * 256 + np.asarray(_lower_bytes(depth, file))
    # Pillow's own conversion of grey clips: every 16-bit value above 255 would turn white.
    elif values.min() < 0 or values.max() > DEEPEST:
        raise ValueError("32-bit integer pixels beyond the 16-bit range")
    brightest, full = int(values.max()), depth.type_maximum
    if depth.largest is not None and brightest <= depth.largest:
        full = depth.largest
    elif 0 < brightest <= 255:
        full = 255
        _log_once("holds values of 0 to 255 in 16 bits or more and is read as such", file)
    elif 0 < brightest < NEARLY_BLACK:
        _log_once(
            f"holds 16-bit values of at most {brightest:,}, states no range, and is read as 0 to 65,535: nearly black. "
            "Where fewer bits are significant, scale them, or state it in the file (sBIT, MaxSampleValue)",
            file,
        )
    if depth.inverted:
        values = full - values.astype(np.int64)
    scaled = values // 257 if full == DEEPEST else (values.astype(np.int64) * 255 + full // 2) // full
    clear = image.info.get("transparency")
    if isinstance(clear, int) and image.mode != "RGB":
        scaled = np.where(np.asarray(image) == clear, 255, scaled)
    return Image.fromarray(scaled.astype(np.uint8))


def _lower_bytes(depth: Depth, file: Path | ImageBytes) -> Image.Image:
    """The lower 8 bits of 16-bit RGB: Pillow takes them for the upper ones where the byte order is the other."""
    native = "B" if sys.byteorder == "little" else "L"  # libtiff swaps bytes by itself
    other = {"B": "L", "L": "B", "N": native}[depth.rawmode[-1]]
    with Image.open(file if isinstance(file, Path) else io.BytesIO(file.content), formats=FORMATS) as again:
        swapped = depth.rawmode[:-1] + other
        again.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in again.tile
        ]
        again.load()
        return again


def refuse_unscaled(image: Image.Image, depth: Depth) -> None:
    """Raises ValueError where the upper 8 bits, all that Pillow gives of these modes, hold next to nothing."""
    brightest = max(int(high) for _, high in cast(Any, image.getextrema())[:3])
    if depth.largest is not None and brightest <= depth.largest >> 8:
        raise ValueError(
            f"16-bit pixels with transparency of which {depth.largest.bit_length()} bits are significant, not scaled"
        )


_logged: set[str] = set()


def _log_once(what: str, file: Path | ImageBytes) -> None:
    """Log how pixels were understood where the file leaves it open: once for each kind and process."""
    kind = what[:30]
    if kind not in _logged:
        _logged.add(kind)
        name = file if isinstance(file, Path) else file.name
        log.warning("WARNING: %s %s. (Logged for the first such image only.)", name, what)
