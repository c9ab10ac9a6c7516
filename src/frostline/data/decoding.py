"""Image files to RGB, with Pillow and under limits of our own.

torchvision.io is not used: it dies (SIGSEGV) of one flipped byte in a PNG and decodes a 900-megapixel bomb.
"""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Only these decoders are tried: Pillow's full list includes EPS, which starts Ghostscript on the file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
MAX_PIXELS = 100_000_000  # 300 MB as RGB; the largest phone cameras make 200-megapixel files, rarely
PILLOWS_LIMIT = 178_956_970  # Pillow itself refuses to open more


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


def decode_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in a file, upright and in mode RGB.

    The EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, CMYK and palette
    images are converted, and of an animation the first frame is taken.

    Raises:
        UnreadableImage: missing, empty, truncated or corrupt, no image, of an unsupported format or pixel type, or of
            more than `max_pixels` pixels (checked before any of them is decoded).
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise UnreadableImage(path, "empty file (0 bytes)")
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of sizes above its own limit; ours is checked below.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UnreadableImage(
                        path, f"{width} x {height} pixels, more than the limit of {max_pixels:,} (max_pixels)"
                    )
                image.load()
                upright = ImageOps.exif_transpose(image)
                return _to_rgb(upright)
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
    return image.convert("RGB")
