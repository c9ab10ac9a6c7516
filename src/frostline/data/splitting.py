"""Seeded stratified splits: each class is divided in the same proportions."""

from collections.abc import Mapping, Sequence

import numpy as np

from frostline.data.seeding import stable_seed


def stratified_split(
    labels: Sequence[int], *, fractions: Mapping[str, float], seed: int, classes: Sequence[str]
) -> dict[str, list[int]]:
    """Divide indices into `train` and the named held-out parts, class by class.

    Args:
        labels: class index of each item.
        fractions: held-out part -> fraction of each class in it; `train` gets the rest; 0 leaves a part empty.
        classes: names, for the message.

    Returns:
        part -> sorted indices. Each class has at least one item in each part whose fraction is above 0.

    Raises:
        ValueError: the fractions leave nothing to train on, or a class has fewer items than there are parts.
    """
    wanted = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    if min(fractions.values(), default=0) < 0 or sum(wanted.values()) >= 1:
        shown = ", ".join(f"{part} {fraction:g}" for part, fraction in fractions.items())
        raise ValueError(f"The held-out fractions ({shown}) must be at least 0 and sum to less than 1.")
    parts: dict[str, list[int]] = {"train": [], **{part: [] for part in fractions}}
    values = np.asarray(labels, dtype=np.int64)
    for label in np.unique(values):
        members = np.flatnonzero(values == label)
        if len(members) < len(wanted) + 1:
            raise ValueError(
                f"Class {classes[label]!r} has {len(members)} image{'s' * (len(members) != 1)}, too few to split into "
                f"{', '.join(['train', *wanted])}: it takes at least {len(wanted) + 1}."
            )
        members = np.random.default_rng(stable_seed(seed, "split", int(label))).permutation(members)
        # At least one for each part, and one left for train.
        size, room = len(members), len(members) - 1
        for place, (part, fraction) in enumerate(wanted.items()):
            later = len(wanted) - 1 - place
            count = min(max(1, round(fraction * size)), room - later)
            parts[part] += members[:count].tolist()
            members, room = members[count:], room - count
        parts["train"] += members.tolist()
    return {part: sorted(indices) for part, indices in parts.items()}


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
