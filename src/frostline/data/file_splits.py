"""Labelled files to splits: each file once, without broken ones, val and test divided off."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.data.files import LabelledFile
from frostline.data.folders import AGAIN, BROKEN, Identity, LeftOut
from frostline.data.image_check import broken_among
from frostline.data.problem_list import MOST_BROKEN, listed
from frostline.data.splitting import rare_notes, stratified_split


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
