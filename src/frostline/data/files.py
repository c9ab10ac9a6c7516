"""Images in files: the labelled ones of a source, and whatever a user names for prediction."""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from frostline.data.decoding import (
    EXTENSIONS,
    MAX_PIXELS,
    UnreadableImage,
    decode_image,
    decoded_size,
    decoder_identity,
)
from frostline.data.packed import PackedImages, Packing, open_packed
from frostline.data.source import LabelledImage, LabelledImages
from frostline.data.splitting import stratified_split
from frostline.data.transforms import Transform


class LabelledFile(NamedTuple):
    """A path and its class index."""

    path: str
    label: int


class FileImages(LabelledImages):
    """One split of labelled files, decoded when they are asked for.

    Args:
        max_pixels: larger images are errors, before they are decoded.
        scaled_decoding: let `for_shorter_side` decode large JPEGs at reduced size (`frostline.data.decoding`).
        packing: where `for_shorter_side` keeps what was decoded; None for nowhere.

    Raises:
        UnreadableImage: on reading a broken file; names it.
    """

    def __init__(
        self,
        files: Sequence[LabelledFile],
        *,
        max_pixels: int = MAX_PIXELS,
        scaled_decoding: bool = False,
        packing: Packing | None = None,
    ) -> None:
        self.files = files
        self.paths = [file.path for file in files]
        self._labels = [file.label for file in files]
        self.max_pixels = max_pixels
        self.scaled_decoding = scaled_decoding
        self.packing = packing
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
            ValueError: the packed images would take more than the limit, or their folder cannot be written to.
        """
        images = FileImages(self.files, max_pixels=self.max_pixels)
        images.shorter_side = pixels if self.scaled_decoding else None
        if self.packing is None:
            return images
        packed = open_packed(self.packing, key=images.identity, sizes=images.decoded_sizes)
        return images if packed is None else PackedImages(images, packed)

    @property
    def identity(self) -> str:
        """A word that changes with the files, their sizes and times, and whatever else decides the pixels."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((decoder_identity(), self.shorter_side, self.max_pixels)).encode())
        for path in self.paths:
            try:
                found = Path(path).stat()
                digest.update(repr((path, found.st_size, found.st_mtime_ns)).encode())
            except OSError:
                digest.update(repr((path, None)).encode())
        return digest.hexdigest()

    def decoded_sizes(self) -> list[tuple[int, int] | None]:
        """Width and height of each image as it is decoded, from the headers; None for one that cannot be read."""
        sizes: list[tuple[int, int] | None] = []
        for path in self.paths:
            try:
                sizes.append(decoded_size(path, max_pixels=self.max_pixels, shorter_side=self.shorter_side))
            except UnreadableImage:
                sizes.append(None)  # told when the image is asked for
        return sizes


class ImageFiles(Dataset[tuple[torch.Tensor | None, str, str]]):
    """Unlabelled files for prediction: `(image, path, reason)`; a broken one has None for image and says why.

    Args:
        shorter_side: pixels of the shorter side that the transform makes use of, to decode larger JPEGs at reduced
            size; None decodes them whole.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        transform: Transform,
        max_pixels: int = MAX_PIXELS,
        shorter_side: int | None = None,
    ) -> None:
        self.paths = [str(path) for path in paths]
        self.transform = transform
        self.max_pixels = max_pixels
        self.shorter_side = shorter_side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | None, str, str]:
        path = self.paths[index]
        try:
            image = decode_image(path, max_pixels=self.max_pixels, shorter_side=self.shorter_side)
            return self.transform(image), path, ""
        except UnreadableImage as error:
            return None, path, error.reason
        except (MemoryError, RuntimeError) as error:  # torch's word for memory that it did not get
            return None, path, f"cannot be resized ({str(error).splitlines()[0] if str(error) else 'no memory'})"


def divide(
    given: Mapping[str, Sequence[LabelledFile]],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    classes: Sequence[str],
) -> dict[str, list[LabelledFile]]:
    """Complete the splits that the user laid out.

    Args:
        given: split -> files. `all` alone is divided into train, val and test; `train` without `val` gives up
            `val_fraction` of itself.
    """
    splits = {split: list(files) for split, files in given.items()}
    if "all" in splits:
        whole, fractions = splits.pop("all"), {"val": val_fraction, "test": test_fraction}
    elif splits.get("val"):
        return splits
    else:
        whole, fractions = splits["train"], {"val": val_fraction}
    parts = stratified_split([file.label for file in whole], fractions=fractions, seed=seed, classes=classes)
    return splits | {part: [whole[index] for index in indices] for part, indices in parts.items()}


def images_under(folder: Path) -> Iterator[Path]:
    """The image files in a folder and the folders in it, sorted; hidden files and folders are passed over."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(parent) / name


def find_images(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that the inputs name, each once: files as they are, folders with all images in them, glob patterns.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: an input names no image, or there are no inputs.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = Path(item).expanduser()
        if path.is_dir():
            matches = list(images_under(path))
        elif path.exists():
            # A file named by its own name is taken whatever it is called: prediction says what is wrong with it.
            matches = [path]
        elif glob.has_magic(str(item)):
            named = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - absolute patterns
            matches = [name for name in named if name.is_file() and name.suffix.lower() in EXTENSIONS]
        else:
            raise FileNotFoundError(f"{item}: no such file or folder.")
        if not matches:
            raise ValueError(f"{item}: no images there (looked for {', '.join(sorted(EXTENSIONS))}).")
        found.update(dict.fromkeys(matches))
    if not found:
        raise ValueError("No inputs were given: name files, folders or glob patterns.")
    return list(found)
