"""Images in files: the labelled ones of a source, and whatever a user names for prediction."""

import glob
import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from frostline.data.decoded_cache import DecodedCache, cached_images
from frostline.data.decoding import (
    EXTENSIONS,
    MAX_PIXELS,
    UnreadableImage,
    broken_among,
    decode_image,
    decoded_size,
    decoder_identity,
)
from frostline.data.folders import AGAIN, BROKEN, Identity, LeftOut, Walk, identity
from frostline.data.source import LabelledImage, LabelledImages
from frostline.data.splitting import rare_notes, stratified_split
from frostline.data.transforms import Transform

MOST_LISTED, MOST_BROKEN = 10, 1000  # problems, and broken images, that one message names


class LabelledFile(NamedTuple):
    """A path and its class index."""

    path: str
    label: int


class FileImages(LabelledImages):
    """One split of labelled files, decoded when they are asked for.

    Args:
        max_pixels: larger images are errors, before they are decoded.
        scaled_decoding: let `for_shorter_side` decode large JPEGs at reduced size (`frostline.data.decoding`).
        cache: of the decoded images that `for_shorter_side` gives; None for none.

    Raises:
        UnreadableImage: on reading a broken file; names it.
    """

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
        """A word that changes with the files (see `file_states`) and whatever else decides the pixels."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((decoder_identity(), self.shorter_side, self.max_pixels)).encode())
        for path, state in zip(self.paths, file_states(self.paths), strict=True):
            digest.update(repr((path, state)).encode())
        return digest.hexdigest()

    def broken(self) -> dict[int, UnreadableImage]:
        """Position -> reason, of the files that `frostline.data.decoding.check_image` finds broken."""
        return broken_among(self.paths, max_pixels=self.max_pixels)

    def decoded_sizes(self) -> list[tuple[int, int] | None]:
        """Width and height of each image as it is decoded, from the headers; None for one that cannot be read."""
        sizes: list[tuple[int, int] | None] = []
        for path in self.paths:
            try:
                sizes.append(decoded_size(path, max_pixels=self.max_pixels, shorter_side=self.shorter_side))
            except UnreadableImage:
                sizes.append(None)  # told when the image is asked for
        return sizes


def file_states(paths: Sequence[str]) -> list[tuple[int, ...] | None]:
    """Size, time of the content, time of the inode and inode of each file; None for one that is not there.

    Nobody can set the inode's time, so that another content shows under whatever size and time. A copy of a file counts
    as another one: to tell that its content is the same, it would have to be read (1,000 files of 110 kB take 3 ms, and
    their content 90 ms from memory, minutes from a network's disk).
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


class OneCopy:
    """Sees to it that a file is used once, whatever names lead to it, and in one class and split.

    Args:
        left_out: gets the further names of a file.
    """

    def __init__(self, left_out: LeftOut) -> None:
        self.left_out = left_out
        self._seen: dict[Identity, tuple[str, str, str]] = {}
        self._conflicts: list[str] = []

    def is_first(self, path: Path, own: Identity | None, *, label: str, split: str, where: str = "") -> bool:
        """Whether this is the file's first name.

        Args:
            own: the file's identity; None of a file that is not there.
            where: what messages call this name, if not its path.
        """
        if own is None:
            return True
        name = where or str(path)
        first = self._seen.setdefault(own, (label, split, name))
        if first[2] == name:
            return True
        if first[:2] == (label, split):
            self.left_out.add(AGAIN, name)
        else:
            self._conflicts.append(
                f"{name} is {label!r}{_in(split)}, but {first[2]}, the same file, is {first[0]!r}{_in(first[1])}."
            )
        return False

    def check(self) -> None:
        """Raises ValueError that names the files in two classes or splits."""
        if self._conflicts:
            raise ValueError(listed(self._conflicts, "images are in two classes or splits"))


def without_broken(
    files: Mapping[str, Sequence[LabelledFile]], *, max_pixels: int, classes: Sequence[str], left_out: LeftOut
) -> tuple[dict[str, list[LabelledFile]], list[str]]:
    """The files that can be decoded, each decoded for it once, and a sentence that names the others.

    Raises:
        ValueError: a class is left without an image to train on.
    """
    kept: dict[str, list[LabelledFile]] = {}
    lines = []
    for split, of_split in files.items():
        broken = broken_among([file.path for file in of_split], max_pixels=max_pixels, thorough=True)
        kept[split] = [file for position, file in enumerate(of_split) if position not in broken]
        lines += [str(error) for error in broken.values()]
        for error in broken.values():
            left_out.add(BROKEN, error.path)
        empty = {file.label for file in of_split} - {file.label for file in kept[split]}
        if empty and split in ("train", "all"):
            raise ValueError(
                listed(lines, BROKEN, most=MOST_BROKEN)
                + f"\nNo image is left of {', '.join(repr(classes[label]) for label in sorted(empty))}."
            )
    return kept, [f"WARNING: left out: {listed(lines, BROKEN, most=MOST_BROKEN)}"] if lines else []


def _in(split: str) -> str:
    return "" if split == "all" else f" in {split}"


def listed(problems: Sequence[str], what: str, *, most: int = MOST_LISTED) -> str:
    """One message for several problems: the first `most`, and how many there are."""
    if len(problems) == 1:
        return problems[0]
    more = [f"  … and {len(problems) - most:,} more"] if len(problems) > most else []
    return "\n".join([f"{len(problems):,} {what}:", *(f"  {each}" for each in problems[:most]), *more])


def name_notes(classes: Sequence[str]) -> list[str]:
    """A sentence about class names that differ in upper and lower case alone, if there are any."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.casefold(), []).append(name)
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return [f"WARNING: classes that differ in upper and lower case alone: {'; '.join(pairs)}"] if pairs else []


def usable_splits(
    files: Mapping[str, Sequence[LabelledFile]],
    *,
    on_bad_image: str,
    max_pixels: int,
    left_out: LeftOut,
    classes: Sequence[str],
    **division: Any,
) -> tuple[dict[str, list[LabelledFile]], list[str]]:
    """The splits of a source, without broken images where `on_bad_image` is `skip`, and sentences about what that and
    `divide`, which takes the other arguments, left out or kept in train.

    Raises:
        ValueError: a class is left without an image to train on, or is too small to divide.
    """
    broken: list[str] = []
    if on_bad_image == "skip":
        files, broken = without_broken(files, max_pixels=max_pixels, classes=classes, left_out=left_out)
    splits, rare = divide(files, classes=classes, **division)
    return splits, [*broken, *rare]


def divide(
    given: Mapping[str, Sequence[LabelledFile]],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    classes: Sequence[str],
    rare_classes: str = "raise",
) -> tuple[dict[str, list[LabelledFile]], list[str]]:
    """Complete the splits that the user laid out, and say in a sentence which classes were too small for it.

    Args:
        given: split -> files. `all` alone is divided into train, val and test; `train` without `val` gives up
            `val_fraction` of itself; without either, nothing is divided.
    """
    splits = {split: list(files) for split, files in given.items()}
    if "all" in splits:
        whole, fractions = splits.pop("all"), {"val": val_fraction, "test": test_fraction}
    elif splits.get("val") or "train" not in splits:
        return splits, []
    else:
        whole, fractions = splits["train"], {"val": val_fraction}
    labels = [file.label for file in whole]
    parts = stratified_split(labels, fractions=fractions, seed=seed, classes=classes, rare_classes=rare_classes)
    notes = rare_notes(labels, fractions=fractions, classes=classes) if rare_classes == "train" else []
    return splits | {part: [whole[index] for index in indices] for part, indices in parts.items()}, notes


def find_images(inputs: Iterable[str | os.PathLike[str]], *, left_out: LeftOut | None = None) -> list[Path]:
    """The files that the inputs name, each once: files as they are, folders with all images in them, glob patterns.

    Args:
        left_out: gets what is in the folders and is no image, and further names of a file.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: an input names no image, or there are no inputs.
    """
    left_out = LeftOut() if left_out is None else left_out
    walk = Walk(left_out, tolerant=True)
    found: dict[Identity | Path, Path] = {}
    for item in inputs:
        path = Path(item).expanduser()
        if path.is_dir():
            matches = list(walk.images(path))
        elif path.exists():
            # A file named by its own name is taken whatever it is called: prediction says what is wrong with it.
            matches = [(path, identity(path))]
        elif glob.has_magic(str(item)):
            root = Path(path.anchor)  # glob.glob would follow links under `**`, and never end where two lead upwards
            named = sorted(root.glob(str(path.relative_to(root))), key=str)
            named = [name for name in named if not any(part[0] == "." for part in {*name.parts} - {*path.parts})]
            matches = [image for name in named if name.is_file() and (image := walk.image(str(name))) is not None]
        else:
            raise FileNotFoundError(f"{item}: no such file or folder.")
        if not matches:
            seen = f" {'; '.join(lines)}." if (lines := left_out.lines()) else ""
            raise ValueError(f"{item}: no images there (looked for {', '.join(sorted(EXTENSIONS))}).{seen}")
        for match, own in matches:
            first = found.setdefault(own or match, match)
            if first != match:
                left_out.add(AGAIN, match)
    if not found:
        raise ValueError("No inputs were given: name files, folders or glob patterns.")
    return list(found.values())
