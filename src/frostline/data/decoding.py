"""Image files to RGB, with Pillow and under limits of our own.

torchvision.io is not used: it dies (SIGSEGV) of one flipped byte in a PNG and decodes a 900-megapixel bomb.
"""

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL
from PIL import Image, ImageOps, UnidentifiedImageError, features

from frostline.data.image_file import FORMATS, ImageBytes, UnreadableImage, opened_bytes
from frostline.data.pixel_depth import depth_of, eight_bits, refuse_unscaled

MAX_PIXELS = 100_000_000  # 300 MB as RGB; the largest phone cameras make 200-megapixel files, rarely
PILLOWS_LIMIT = 178_956_970  # Pillow itself refuses to open more
REDUCTIONS = (8, 4, 2)  # what libjpeg's inverse DCT gives in place of 8 x 8 pixels a block: 1, 2 x 2, 4 x 4
# A reduced image keeps twice the pixels that are needed, and smaller ones are left alone: at 0.3 megapixels a reduction
# saves half a millisecond and errs by up to 60 grey levels of 255, at 12 megapixels it saves 50 ms and errs by 6.
MARGIN = 2
REDUCED_FROM = 2_000_000  # pixels
FULL_SIZE = "frostline"  # in an opened image's `info`: width and height in the file, and the reduction
EXIF_ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
VERSION = 2  # changes when the same file comes out with other pixels


def decoder_identity() -> tuple[int | str | None, ...]:
    """What pixels depend on beside the file: this module's rules and the libraries."""
    return (VERSION, PIL.__version__, features.version("libjpeg_turbo"), features.version("zlib"))


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
            `reduction` says; None decodes it at full size.

    Raises:
        UnreadableImage: missing, empty, truncated or corrupt, no image, of an unsupported format or pixel type, or of
            more than `max_pixels` pixels (checked before any of them is decoded, and before any reduction).
    """
    opened = file if isinstance(file, ImageBytes) else Path(file)
    with opened_image(opened, max_pixels=max_pixels, shorter_side=shorter_side) as image:
        size = _size_after_crop(image)
        cropped = image.size != size  # asked before loading, which turns a TIFF upright
        depth = depth_of(image, opened)
        image.load()
        if depth is not None and image.mode == "RGB":
            image.paste(eight_bits(image, depth, opened))
        elif depth is not None and image.mode[0] != "I":
            refuse_unscaled(image, depth)
        upright = image.crop((0, 0, *size)) if cropped else image
        # In place, and RGB as it is: two copies took a tenth of the time.
        ImageOps.exif_transpose(upright, in_place=True)
        return _to_rgb(upright if depth is None or image.mode[0] != "I" else eight_bits(upright, depth, opened))


def decoded_size(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, shorter_side: int | None = None
) -> tuple[int, int]:
    """Width and height of what `decode_image` would give, from the file's header.

    Raises:
        UnreadableImage: as `decode_image`, of what the header shows.
    """
    with opened_image(Path(path), max_pixels=max_pixels, shorter_side=shorter_side) as image:
        width, height = _size_after_crop(image)
        # Pillow tells a TIFF's size as it is when upright.
        sideways = image.format != "TIFF" and image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
        return (height, width) if sideways else (width, height)


def _size_after_crop(image: Image.Image) -> tuple[int, int]:
    """The size of an opened image without the most of what libjpeg adds where the factor does not divide a side.

    It rounds up, so that the last row and column may lie mostly beyond the picture; the image would be squeezed by up
    to a pixel. Rounded to the nearest, it is half of one at most, and what follows keeps at most half of the pixels.
    """
    width, height, factor = image.info.pop(FULL_SIZE)
    if image.size == (width, height):
        return width, height
    return (width + factor // 2) // factor, (height + factor // 2) // factor


@contextmanager
def opened_image(file: Path | ImageBytes, *, max_pixels: int, shorter_side: int | None) -> Iterator[Image.Image]:
    """The image as Pillow opened it, before its pixels; any error inside becomes UnreadableImage."""
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
                image.info[FULL_SIZE] = (width, height, factor)
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
            reason = "a corrupt TIFF, or one of a pixel layout, photometric interpretation or compression not supported"
            raise UnreadableImage(path, reason) from error
        raise UnreadableImage(path, f"no image, or none of the formats {', '.join(FORMATS)}") from error
    except FileNotFoundError as error:
        raise UnreadableImage(path, "no such file") from error
    except Exception as error:
        # Broken files make Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, IndexError, …
        raise UnreadableImage(path, f"cannot be decoded ({error or type(error).__name__})") from error


def _begins_like_a_tiff(file: Path | ImageBytes) -> bool:
    with opened_bytes(file) as stream:
        return stream.read(4) in (b"II*\0", b"MM\0*")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no defined range")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
