"""What an image file is: formats, file endings, encoded bytes, and the error of one that cannot be decoded."""

import io
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Only these decoders are tried: Pillow's full list includes EPS, which starts Ghostscript on the file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)


class ImageBytes(NamedTuple):
    """An encoded image that is not in a file of its own, and its name in messages."""

    name: str
    content: bytes


def opened_bytes(file: Path | ImageBytes) -> BinaryIO:
    """The encoded image, open for reading; the caller closes it."""
    return file.open("rb") if isinstance(file, Path) else io.BytesIO(file.content)


class UnreadableImage(ValueError):  # noqa: N818 - named like FileNotFound
    """A file that cannot be decoded to an image; `path` names it and `reason` says why."""

    def __init__(self, path: str | os.PathLike[str], reason: str | None = None) -> None:
        if reason is None:
            # A DataLoader raises a worker's exception again from one text: its traceback, which ends in our message.
            text, _, reason = str(path).strip().rpartition("UnreadableImage: ")[2].partition(": ")
            path = text
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
