"""Seeded stratified splits: each class is divided in the same proportions."""

from collections.abc import Mapping, Sequence

import numpy as np

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


def rare_among(labels: Sequence[int], *, fractions: Mapping[str, float]) -> dict[int, int]:
    """Class index -> number of items, of the classes that have fewer items than there are parts."""
    parts = 1 + sum(fraction > 0 for fraction in fractions.values())
    found, counts = np.unique(np.asarray(labels, dtype=np.int64), return_counts=True)
    return {int(label): int(count) for label, count in zip(found, counts, strict=True) if count < parts}


def rare_notes(labels: Sequence[int], *, fractions: Mapping[str, float], classes: Sequence[str]) -> list[str]:
    """A sentence that names the classes that `rare_classes=train` kept in train, if there are any."""
    names = [classes[label] for label in rare_among(labels, fractions=fractions)]
    return [f"WARNING: too few images to split, all kept in train: {', '.join(names)}"] if names else []


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
