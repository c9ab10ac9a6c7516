"""Image files to RGB, with Pillow and under limits of our own.

torchvision.io is not used: it dies (SIGSEGV) of one flipped byte in a PNG and decodes a 900-megapixel bomb.
"""

import io
import logging
import os
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError, features

from frostline.data.cores import usable_cores

log = logging.getLogger(__name__)

# Only these decoders are tried: Pillow's full list includes EPS, which starts Ghostscript on the file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)
MAX_PIXELS = 100_000_000  # 300 MB as RGB; the largest phone cameras make 200-megapixel files, rarely
PILLOWS_LIMIT = 178_956_970  # Pillow itself refuses to open more
REDUCTIONS = (8, 4, 2)  # what libjpeg's inverse DCT gives in place of 8 x 8 pixels a block: 1, 2 x 2, 4 x 4
# A reduced image keeps twice the pixels that are needed, and smaller ones are left alone: at 0.3 megapixels a reduction
# saves half a millisecond and errs by up to 60 grey levels of 255, at 12 megapixels it saves 50 ms and errs by 6.
MARGIN = 2
REDUCED_FROM = 2_000_000  # pixels
WHOLE = "frostline"  # in an opened image's `info`: width and height in the file, and the reduction
EXIF_ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE = 258, 262, 281  # TIFF tags
SAMPLE_FORMAT = 339
WHITE_IS_ZERO, SIGNED = 0, 2
PNG_SIGNATURE = 8  # bytes
JPEG_END = b"\xff\xd9"
CHECKED_AT_ONCE = 64  # images of a thread's turn
DEEPEST = 65_535  # the largest value of 16 bits
NEARLY_BLACK = 4096  # 16-bit values that all lie below come out as 0 to 15 of 255


VERSION = 2  # changes when the same file comes out with other pixels


def decoder_identity() -> tuple[int | str | None, ...]:
    """What pixels depend on beside the file: this module's rules and the libraries."""
    return (VERSION, PIL.__version__, features.version("libjpeg_turbo"), features.version("zlib"))


class UnreadableImage(ValueError):  # noqa: N818 - says what it is, like FileNotFound
    """A file that cannot be decoded to an image; `path` and `reason` say which and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str | None = None) -> None:
        if reason is None:
            # A DataLoader raises a worker's exception anew from one text: its traceback, which ends in our message.
            text, _, reason = str(path).strip().rpartition("UnreadableImage: ")[2].partition(": ")
            path = text
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ImageBytes(NamedTuple):
    """An encoded image that is no file of its own, with the name that it has in messages."""

    name: str
    content: bytes


def reduction(width: int, height: int, *, shorter_side: int | None) -> int:
    """By how much a JPEG of this size is reduced while it is decoded: 8, 4, 2 or, for not at all, 1.

    The largest of them that leaves the shorter side at least `MARGIN * shorter_side` pixels, and 1 for images of fewer
    than `REDUCED_FROM` pixels. A function of the sizes alone, so that an image comes out the same wherever it is read.

    Args:
        shorter_side: pixels of the shorter side that what follows makes use of; None for the image as it is.
    """
    if shorter_side is None or width * height < REDUCED_FROM:
        return 1
    fits = (factor for factor in REDUCTIONS if min(width, height) >= factor * MARGIN * shorter_side)
    return next(fits, 1)


def decode_image(
    file: str | os.PathLike[str] | ImageBytes, *, max_pixels: int = MAX_PIXELS, shorter_side: int | None = None
) -> Image.Image:
    """The image in a file, or in bytes, upright and in mode RGB.

    The EXIF orientation is applied, transparency is laid over white, CMYK and palette images are converted, and of an
    animation the first frame is taken. 16 bits are scaled to 8: from the range that the file states (sBIT of a PNG,
    BitsPerSample and MaxSampleValue of a TIFF) where all values lie in it, from 0 to 255 where no value is larger
    (which is logged), else from 0 to 65,535.

    Args:
        shorter_side: where only so many pixels of the shorter side are needed, a JPEG is decoded at the size that
            `reduction` says; None decodes it whole.

    Raises:
        UnreadableImage: missing, empty, truncated or corrupt, no image, of an unsupported format or pixel type, or of
            more than `max_pixels` pixels (checked before any of them is decoded, and before any reduction).
    """
    opened = file if isinstance(file, ImageBytes) else Path(file)
    with _opened(opened, max_pixels=max_pixels, shorter_side=shorter_side) as image:
        size = _size_after_crop(image)
        cropped = image.size != size  # asked before loading, which turns a TIFF upright
        depth = _depth_of(image, opened)
        image.load()
        if depth is not None and image.mode == "RGB":
            image.paste(_eight_bits(image, depth, opened))
        elif depth is not None and image.mode[0] != "I":
            _refuse_unscaled(image, depth)
        upright = image.crop((0, 0, *size)) if cropped else image
        # In place, and RGB as it is: two copies took a tenth of the time.
        ImageOps.exif_transpose(upright, in_place=True)
        return _to_rgb(upright if depth is None or image.mode[0] != "I" else _eight_bits(upright, depth, opened))


def decoded_size(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, shorter_side: int | None = None
) -> tuple[int, int]:
    """Width and height of what `decode_image` would give, from the file's header.

    Raises:
        UnreadableImage: as `decode_image`, of what the header shows.
    """
    with _opened(Path(path), max_pixels=max_pixels, shorter_side=shorter_side) as image:
        width, height = _size_after_crop(image)
        # Pillow tells a TIFF's size as it is when upright.
        sideways = image.format != "TIFF" and image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
        return (height, width) if sideways else (width, height)


def check_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, thorough: bool = False) -> None:
    """See that a file can be decoded, at less cost than decoding it where that is possible.

    Of a PNG of 8 bits the check sums are compared, of a JPEG the header and the last bytes are looked at. One that is
    not as it should be is decoded, and so is every other image.

    Args:
        thorough: decode every image, JPEGs of several megapixels at reduced size.

    Raises:
        UnreadableImage: as `decode_image`. Not of a JPEG or PNG with a proper end whose content only a decoder finds
            broken, unless `thorough`.
    """
    if not thorough:
        file = Path(path)
        with _opened(file, max_pixels=max_pixels, shorter_side=None) as image:
            if image.format == "JPEG":
                with file.open("rb") as content:
                    content.seek(-len(JPEG_END), os.SEEK_END)
                    if content.read() == JPEG_END:
                        return
            elif image.format == "PNG" and _depth_of(image, file) is None:
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


def _size_after_crop(image: Image.Image) -> tuple[int, int]:
    """The size of an opened image without the most of what libjpeg adds where the factor does not divide a side.

    It rounds up, so that the last row and column may lie mostly beyond the picture; the whole would be squeezed by up
    to a pixel. Rounded to the nearest, it is half of one at most, and what follows keeps at most half of the pixels.
    """
    width, height, factor = image.info.pop(WHOLE)
    if image.size == (width, height):
        return width, height
    return (width + factor // 2) // factor, (height + factor // 2) // factor


@contextmanager
def _opened(file: Path | ImageBytes, *, max_pixels: int, shorter_side: int | None) -> Iterator[Image.Image]:
    """The image as Pillow opened it, before its pixels; whatever goes wrong inside becomes UnreadableImage."""
    path = file if isinstance(file, Path) else Path(file.name)
    try:
        if isinstance(file, Path):
            found = file.stat()
            if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
                raise UnreadableImage(path, "cannot be decoded (not a regular file)")
        if (found.st_size if isinstance(file, Path) else len(file.content)) == 0:
            raise UnreadableImage(path, "empty file (0 bytes)")
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of sizes above its own limit; ours is checked below.
            warnings.simplefilter("ignore")
            content = file if isinstance(file, Path) else io.BytesIO(file.content)
            with Image.open(content, formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UnreadableImage(
                        path, f"{width} x {height} pixels, more than the limit of {max_pixels:,} (max_pixels)"
                    )
                factor = reduction(width, height, shorter_side=shorter_side)
                image.info[WHOLE] = (width, height, factor)
                if factor > 1:
                    # Formats other than JPEG ignore it. The mode stays: None.
                    image.draft(None, (width // factor, height // factor))
                yield image
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(path, f"more pixels than Pillow opens ({PILLOWS_LIMIT:,})") from error
    except UnidentifiedImageError as error:
        if _begins_like_a_tiff(file):
            reason = "a damaged TIFF, or one of a pixel layout, photometric interpretation or compression not supported"
            raise UnreadableImage(path, reason) from error
        raise UnreadableImage(path, f"no image, or none of the formats {', '.join(FORMATS)}") from error
    except FileNotFoundError as error:
        raise UnreadableImage(path, "no such file") from error
    except Exception as error:
        # Broken files make Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, IndexError, …
        raise UnreadableImage(path, f"cannot be decoded ({error or type(error).__name__})") from error


def _begins_like_a_tiff(file: Path | ImageBytes) -> bool:
    with file.open("rb") if isinstance(file, Path) else io.BytesIO(file.content) as stream:
        return stream.read(4) in (b"II*\0", b"MM\0*")


class _Depth(NamedTuple):
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


def _depth_of(image: Image.Image, file: Path | ImageBytes) -> _Depth | None:
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
    return _Depth(
        rawmode,
        largest,
        DEEPEST // 2 if signed else DEEPEST,
        image.mode[0] == "I" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO,
    )


def _significant_bits(file: Path | ImageBytes) -> int | None:
    """The most that a PNG's sBIT chunk, which Pillow passes over, says of any channel; None without one."""
    with file.open("rb") if isinstance(file, Path) else io.BytesIO(file.content) as stream:
        stream.seek(PNG_SIGNATURE)
        while len(head := stream.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"sBIT":
                return max(stream.read(length), default=None)
            if kind in (b"PLTE", b"IDAT"):  # sBIT comes before them
                return None
            stream.seek(length + 4, os.SEEK_CUR)
    return None


def _eight_bits(image: Image.Image, depth: _Depth, file: Path | ImageBytes) -> Image.Image:
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
        _say_once("holds values of 0 to 255 in 16 bits or more and is read as such", file)
    elif 0 < brightest < NEARLY_BLACK:
        _say_once(
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


def _lower_bytes(depth: _Depth, file: Path | ImageBytes) -> Image.Image:
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


def _refuse_unscaled(image: Image.Image, depth: _Depth) -> None:
    """Raises ValueError where the upper 8 bits, all that Pillow gives of these modes, hold next to nothing."""
    brightest = max(int(high) for _, high in cast(Any, image.getextrema())[:3])
    if depth.largest is not None and brightest <= depth.largest >> 8:
        raise ValueError(
            f"16-bit pixels with transparency of which {depth.largest.bit_length()} bits are significant, not scaled"
        )


_said: set[str] = set()


def _say_once(what: str, file: Path | ImageBytes) -> None:
    """Log how pixels were understood where the file leaves it open: once for each kind and process."""
    kind = what[:30]
    if kind not in _said:
        _said.add(kind)
        name = file if isinstance(file, Path) else file.name
        log.warning("WARNING: %s %s. (Said of the first such image only.)", name, what)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no defined range")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
