"""Splits are seeded, stratified and disjoint."""

from collections import Counter

import pytest

from frostline.data.splitting import stratified_split, stratified_subset

LABELS = [0] * 50 + [1] * 20 + [2] * 10


def split(labels=LABELS, fractions=None, seed=0):
    return stratified_split(
        labels, fractions=fractions or {"val": 0.1, "test": 0.2}, seed=seed, classes=["ant", "bee", "cat"]
    )


def test_each_class_is_divided_in_the_same_proportions():
    parts = split()
    counts = {part: Counter(LABELS[index] for index in indices) for part, indices in parts.items()}
    assert counts == {"train": {0: 35, 1: 14, 2: 7}, "val": {0: 5, 1: 2, 2: 1}, "test": {0: 10, 1: 4, 2: 2}}
    assert sorted(index for indices in parts.values() for index in indices) == list(range(80))


def test_the_seed_decides():
    assert split() == split()
    assert split()["val"] != split(seed=1)["val"]


def test_small_classes_are_in_every_part():
    assert {part: len(indices) for part, indices in split([0, 0, 0]).items()} == {"train": 1, "val": 1, "test": 1}


def test_a_fraction_of_zero_leaves_a_part_empty():
    assert split(fractions={"val": 0.5, "test": 0.0})["test"] == []


def test_a_class_too_small_to_split_is_named():
    with pytest.raises(ValueError, match=r"'bee' has 2 images, too few to split into train, val, test.*at least 3"):
        split([0, 0, 0, 1, 1])


@pytest.mark.parametrize("fractions", [{"val": 0.5, "test": 0.5}, {"val": -0.1, "test": 0.2}])
def test_fractions_that_leave_nothing(fractions):
    with pytest.raises(ValueError, match="less than 1"):
        split(fractions=fractions)


def test_a_subset_has_each_class_in_its_share():
    chosen = stratified_subset(LABELS, length=16, seed=0)
    assert Counter(LABELS[index] for index in chosen) == {0: 10, 1: 4, 2: 2}
    assert chosen == sorted(set(chosen))
    assert chosen == stratified_subset(LABELS, length=16, seed=0)
    assert chosen != stratified_subset(LABELS, length=16, seed=1)


def test_a_subset_larger_than_the_whole():
    with pytest.raises(ValueError, match="81 was asked for, but there are 80"):
        stratified_subset(LABELS, length=81, seed=0)
