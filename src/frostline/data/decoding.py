"""Image files to RGB, with Pillow and under limits of our own.

torchvision.io is not used: it dies (SIGSEGV) of one flipped byte in a PNG and decodes a 900-megapixel bomb.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Only these decoders are tried: Pillow's full list includes EPS, which starts Ghostscript on the file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
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

    The EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, CMYK and palette
    images are converted, and of an animation the first frame is taken.

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
        image.load()
        upright = image.crop((0, 0, *size)) if cropped else image
        # In place, and RGB as it is: two copies took a tenth of the time.
        ImageOps.exif_transpose(upright, in_place=True)
        return _to_rgb(upright)


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
        if (file.stat().st_size if isinstance(file, Path) else len(file.content)) == 0:
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
        raise UnreadableImage(path, f"no image, or none of the formats {', '.join(FORMATS)}") from error
    except FileNotFoundError as error:
        raise UnreadableImage(path, "no such file") from error
    except Exception as error:
        # Broken files make Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, IndexError, …
        raise UnreadableImage(path, f"cannot be decoded ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no defined range")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips: every 16-bit value above 255 would turn white.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError("32-bit integer pixels beyond the 16-bit range")
        image = Image.fromarray((values // 257).astype(np.uint8))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
