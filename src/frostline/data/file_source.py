"""A source of labelled files: each file once, without broken ones, val and test split off."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from frostline.data.decoded_cache import decoded_cache as open_cache
from frostline.data.decoding import MAX_PIXELS
from frostline.data.files import FileImages, LabelledFile
from frostline.data.folders import AGAIN, Identity, LeftOut, listed
from frostline.data.source import LabelledImages
from frostline.data.splitting import divide


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


def _in(split: str) -> str:
    return "" if split == "all" else f" in {split}"


def name_notes(classes: Sequence[str]) -> list[str]:
    """A sentence about class names that differ in upper and lower case alone, if there are any."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.casefold(), []).append(name)
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return [f"WARNING: classes that differ in upper and lower case alone: {'; '.join(pairs)}"] if pairs else []


class FoundFiles(NamedTuple):
    """What a source found: class names, split -> files (`all` where there are no splits), and notes."""

    classes: list[str]
    files: Mapping[str, Sequence[LabelledFile]]
    notes: list[str]


class FileSource:
    """A source of labelled image files; a subclass finds them.

    `left_out` counts the files that are not used; `notes` are sentences about them.

    Args:
        path: the folder or file in which the images are found.
        val_fraction: of each class's training images, where there is no val split.
        test_fraction: of each class's images, where there are no splits.
        rare_classes: `raise`, or `train` to keep a class that is too small to split in train.
        on_bad_image: `skip` to decode every image once, here, and leave out those that cannot be read; with `raise`,
            `ImageDataModule.check_images` names them.
        max_pixels: larger images are errors, before they are decoded.
        scaled_decoding: decode JPEGs of several megapixels at reduced size where that is enough.
        decoded_cache: folder in which decoded images are cached for later epochs and runs; None for none.
        decoded_cache_limit: GiB that it may take.
        whole_as: for an evaluation: the split of all images where there are no splits; train is not needed.

    Raises:
        ValueError: a class is left without an image to train on, or is too small to divide; see also the subclass.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str],
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        rare_classes: str = "raise",
        on_bad_image: str = "raise",
        max_pixels: int = MAX_PIXELS,
        scaled_decoding: bool = True,
        decoded_cache: str | os.PathLike[str] | None = None,
        decoded_cache_limit: float = 50.0,
        whole_as: str | None = None,
    ) -> None:
        self.left_out = LeftOut()
        self.scaled_decoding = scaled_decoding
        self.cache = open_cache(decoded_cache, limit=decoded_cache_limit)
        skip = on_bad_image == "skip"
        self._classes, files, notes = self._found(Path(path).expanduser(), tolerant=skip, whole_as=whole_as)
        self.notes = [*name_notes(self._classes), *notes]
        splits = {
            split: FileImages(of_split, max_pixels=max_pixels, scaled_decoding=scaled_decoding, cache=self.cache)
            for split, of_split in files.items()
        }
        self._splits, self.split_note, notes = divide(
            splits,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=split_seed,
            classes=self._classes,
            rare_classes=rare_classes,
            left_out=self.left_out if skip else None,
        )
        self.notes += notes

    def _found(self, path: Path, *, tolerant: bool, whole_as: str | None) -> FoundFiles:
        """The files; with `tolerant`, those that cannot be read are no error."""
        raise NotImplementedError

    @property
    def classes(self) -> Sequence[str]:
        return self._classes

    def dataset(self, split: str) -> LabelledImages | None:
        return self._splits.get(split)
