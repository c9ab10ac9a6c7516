"""Splits: seeded and stratified, completed where a source has none of its own, without broken images."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from frostline.data.folders import BROKEN, MOST_BROKEN, LeftOut, listed
from frostline.data.image_file import UnreadableImage
from frostline.data.seeding import stable_seed

RARE_CLASSES = ("raise", "train")


def stratified_split(
    labels: Sequence[int],
    *,
    fractions: Mapping[str, float],
    seed: int,
    classes: Sequence[str],
    rare_classes: str = "raise",
) -> dict[str, list[int]]:
    """Divide indices into `train` and the named held-out parts, class by class.

    Args:
        labels: class index of each item.
        fractions: held-out part -> fraction of each class in it; `train` gets the rest; 0 leaves a part empty.
        classes: names, for the message.
        rare_classes: `raise`, or `train` for all items of a class with fewer of them than there are parts.

    Returns:
        part -> sorted indices. Each class has at least one item in each part whose fraction is above 0, unless it is
        rare.

    Raises:
        ValueError: the fractions leave nothing to train on, or classes have fewer items than there are parts.
    """
    if rare_classes not in RARE_CLASSES:
        raise ValueError(f"Unknown rare_classes {rare_classes!r}; choose from {', '.join(RARE_CLASSES)}.")
    wanted = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    if min(fractions.values(), default=0) < 0 or sum(wanted.values()) >= 1:
        shown = ", ".join(f"{part} {fraction:g}" for part, fraction in fractions.items())
        raise ValueError(f"The held-out fractions ({shown}) must be at least 0 and sum to less than 1.")
    parts: dict[str, list[int]] = {"train": [], **{part: [] for part in fractions}}
    values = np.asarray(labels, dtype=np.int64)
    rare = rare_among(labels, fractions=fractions)
    if rare and rare_classes == "raise":
        counts = [f"{classes[label]!r} has {count} image{'s' * (count != 1)}" for label, count in rare.items()]
        raise ValueError(
            f"Class{'es' * (len(rare) > 1)} {', '.join(counts)}, too few to split into "
            f"{', '.join(['train', *wanted])}: it takes at least {len(wanted) + 1}. Type rare_classes=train to "
            "keep the images of such classes in train."
        )
    for label in np.unique(values):
        members = np.flatnonzero(values == label)
        if int(label) in rare:
            parts["train"] += members.tolist()
            continue
        members = np.random.default_rng(stable_seed(seed, "split", int(label))).permutation(members)
        # At least one for each part, and one left for train.
        size, left = len(members), len(members) - 1
        for place, (part, fraction) in enumerate(wanted.items()):
            later = len(wanted) - 1 - place
            count = min(max(1, round(fraction * size)), left - later)
            parts[part] += members[:count].tolist()
            members, left = members[count:], left - count
        parts["train"] += members.tolist()
    return {part: sorted(indices) for part, indices in parts.items()}


def split_note(fractions: Mapping[str, float], *, seed: int) -> str:
    """How `stratified_split` divides, with the arguments of a source that change it."""
    parts = ", ".join(f"{100 * fraction:g} % for {part}" for part, fraction in fractions.items())
    arguments = ", ".join(f"{part}_fraction={fraction:g}" for part, fraction in fractions.items())
    return f"of each class {parts} ({arguments}, split_seed={seed})"


def rare_among(labels: Sequence[int], *, fractions: Mapping[str, float]) -> dict[int, int]:
    """Class index -> number of items, of the classes that have fewer items than there are parts."""
    parts = 1 + sum(fraction > 0 for fraction in fractions.values())
    found, counts = np.unique(np.asarray(labels, dtype=np.int64), return_counts=True)
    return {int(label): int(count) for label, count in zip(found, counts, strict=True) if count < parts}


def stratified_subset(labels: Sequence[int], *, length: int, seed: int) -> list[int]:
    """`length` sorted indices in which each class has its share of the whole, to within one item.

    Raises:
        ValueError: there are fewer items than that.
    """
    values = np.asarray(labels, dtype=np.int64)
    if not 0 < length <= len(values):
        raise ValueError(f"A subset of {length:,} was asked for, but there are {len(values):,} images.")
    rng = np.random.default_rng(stable_seed(seed, "subset"))
    order = rng.permutation(len(values))
    # Rank of each item within its class, as a fraction of the class: taking the smallest fractions takes every class
    # in proportion.
    fraction = np.empty(len(values))
    for label in np.unique(values):
        members = order[values[order] == label]
        fraction[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return sorted(np.argsort(fraction, kind="stable")[:length].tolist())


class Divisible(Protocol):
    """Images that can be checked and divided."""

    @property
    def labels(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def subset(self, indices: Sequence[int]) -> Any:
        """The images at these places."""

    def broken(self, *, thorough: bool) -> Mapping[int, UnreadableImage]:
        """Position -> reason, of the images that cannot be read."""


Images = TypeVar("Images", bound=Divisible)


def _without_broken(
    splits: Mapping[str, Images], *, classes: Sequence[str], left_out: LeftOut
) -> tuple[dict[str, Images], list[str]]:
    """The images that can be decoded, each decoded for it once, and a sentence that names the others.

    Raises:
        ValueError: a class is left without an image to train on.
    """
    kept, lines = dict(splits), []
    for split, images in splits.items():
        broken = images.broken(thorough=True)
        if not broken:
            continue
        kept[split] = images.subset([place for place in range(len(images)) if place not in broken])
        lines += [str(error) for error in broken.values()]
        for error in broken.values():
            left_out.add(BROKEN, error.path)
        empty = {*images.labels} - {*kept[split].labels}
        if empty and split in ("train", "all"):
            raise ValueError(
                listed(lines, BROKEN, most=MOST_BROKEN)
                + f"\nNo image is left of {', '.join(repr(classes[label]) for label in sorted(empty))}."
            )
    return kept, [f"WARNING: left out: {listed(lines, BROKEN, most=MOST_BROKEN)}"] if lines else []


def divide(
    given: Mapping[str, Images],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    classes: Sequence[str],
    rare_classes: str = "raise",
    left_out: LeftOut | None = None,
) -> tuple[dict[str, Images], str, list[str]]:
    """Complete the splits that a source has, and say how, and in sentences what was left out.

    Args:
        given: split -> images. `all` alone is divided into train, val and test; `train` without `val` gives up
            `val_fraction` of itself; without either, nothing is divided.
        left_out: gets the images that cannot be decoded, which are left out first; None: they are not looked for.

    Raises:
        ValueError: a class is left without an image to train on, or is too small to divide.
    """
    notes: list[str] = []
    if left_out is not None:
        given, notes = _without_broken(given, classes=classes, left_out=left_out)
    splits = {split: images for split, images in given.items() if len(images)}
    if "all" in splits:
        whole, fractions = splits.pop("all"), {"val": val_fraction, "test": test_fraction}
    elif "val" in splits or "train" not in splits:
        return splits, f"as given: {', '.join(splits)}", notes
    else:
        whole, fractions = splits["train"], {"val": val_fraction}
    parts = stratified_split(whole.labels, fractions=fractions, seed=seed, classes=classes, rare_classes=rare_classes)
    how = split_note(fractions, seed=seed) + (f"; as given: {', '.join(splits)}" if splits else "")
    return splits | {part: whole.subset(indices) for part, indices in parts.items() if indices}, how, notes
