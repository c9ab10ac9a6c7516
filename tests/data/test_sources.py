"""Sources that make or carry their images: random, synthetic, digits."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from frostline.data.digits import Digits
from frostline.data.random_noise import RandomNoise
from frostline.data.source import ImageSource
from frostline.data.synthetic import Synthetic


@pytest.mark.parametrize("source", [RandomNoise(), Synthetic(), Digits()])
def test_they_are_sources(source):
    assert isinstance(source, ImageSource)


def test_random_is_the_notebooks_image_and_label_row():
    images = RandomNoise().dataset("train")
    image, target = images[0]
    assert len(images) == 1
    assert (image.shape, image.dtype) == ((3, 64, 64), torch.float32)
    assert (target.shape, target.dtype) == ((1000,), torch.float32)
    assert images.labels is None
    # Uniform on [0, 1): mean 1/2, variance 1/12.
    assert 0 <= image.min() < 0.01
    assert 0.99 < image.max() < 1
    assert abs(image.mean() - 1 / 2) < 0.02
    assert abs(target.var() - 1 / 12) < 0.02
    assert len(RandomNoise().classes) == 1000


def test_random_items_depend_on_seed_split_and_index_alone():
    def item(seed=0, split="train", index=0):
        source = RandomNoise(length=3, val_length=3, image_size=4, classes=2, seed=seed)
        return source.dataset(split)[index][0]

    torch.manual_seed(0)
    first = item()
    torch.manual_seed(1)
    assert torch.equal(first, item())
    for other in (item(seed=1), item(split="val"), item(index=1)):
        assert not torch.equal(first, other)


def test_random_ends_at_its_length():
    with pytest.raises(IndexError):
        RandomNoise(length=2).dataset("train")[2]


def test_splits_of_length_zero_are_none():
    assert RandomNoise().dataset("val") is None
    assert Synthetic(test_length=0).dataset("test") is None


def test_synthetic_items_depend_on_seed_split_and_index_alone():
    def item(seed=0, split="train", index=4):
        return Synthetic(length=9, val_length=9, image_size=16, difficulty=0.5, seed=seed).dataset(split)[index][0]

    np.random.seed(0)
    first = item()
    np.random.seed(1)
    assert torch.equal(first, item())
    for other in (item(seed=1), item(split="val"), item(index=14 % 9)):
        assert not torch.equal(first, other)


@pytest.mark.parametrize(("classes", "image_size", "length"), [(2, 8, 5), (10, 64, 30), (1000, 20, 1001)])
def test_synthetic_has_any_size_classes_and_length(classes, image_size, length):
    source = Synthetic(classes=classes, image_size=image_size, length=length)
    images = source.dataset("train")
    image, label = images[length - 1]
    assert (image.shape, image.dtype) == ((3, image_size, image_size), torch.uint8)
    assert label == (length - 1) % classes == images.labels[length - 1]
    assert len(images) == length
    assert len(set(source.classes)) == classes
    assert list(source.classes) == sorted(source.classes)


def test_synthetic_memory_does_not_grow_with_the_length():
    def memory(length):
        tracemalloc.start()
        images = Synthetic(length=length, image_size=8).dataset("train")
        assert images[length - 1][1] == (length - 1) % 10
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    memory(10)
    assert memory(10**9) < memory(10) + 10_000


def accuracy(difficulty):
    """A linear classifier on 16 x 16 pixels: 300 images to learn from, 200 to judge by."""
    source = Synthetic(length=300, test_length=200, classes=5, image_size=16, difficulty=difficulty, seed=2)
    arrays = {}
    for split in ("train", "test"):
        items = list(zip(range(len(source.dataset(split))), source.dataset(split), strict=False))
        arrays[split] = (
            np.stack([image.numpy().ravel() / 255 for _, (image, _) in items]),
            [label for _, (_, label) in items],
        )
    return LogisticRegression(max_iter=2000).fit(*arrays["train"]).score(*arrays["test"])


def test_synthetic_can_be_learned_and_difficulty_makes_it_harder():
    easy, middle, hard = accuracy(0.0), accuracy(0.5), accuracy(1.0)
    assert easy == 1.0
    assert 0.3 < hard < middle < 1.0


def test_without_difficulty_a_class_is_one_image():
    images = Synthetic(classes=3, image_size=8, difficulty=0.0).dataset("train")
    assert torch.equal(images[0][0], images[3][0])
    assert not torch.equal(images[0][0], images[1][0])


def test_difficulty_out_of_range():
    with pytest.raises(ValueError, match=r"difficulty=1.5 must lie in \[0, 1\]"):
        Synthetic(difficulty=1.5)


def test_digits_are_1797_real_images_in_three_disjoint_splits():
    source = Digits()
    parts = {split: source.dataset(split) for split in ("train", "val", "test")}
    lengths = {split: len(images) for split, images in parts.items()}
    assert sum(lengths.values()) == 1797
    assert abs(lengths["val"] - 180) <= 5
    assert abs(lengths["test"] - 359) <= 5
    for images in parts.values():
        assert set(images.labels) == set(range(10))
    image, label = parts["train"][0]
    assert (image.shape, image.dtype) == ((3, 8, 8), torch.uint8)
    assert torch.equal(image[0], image[2])
    assert max(int(parts["train"][i][0].max()) for i in range(50)) == 255
    assert label == parts["train"].labels[0]


def test_the_digits_split_is_seeded():
    first, same, other = (Digits(split_seed=seed).dataset("test").labels for seed in (0, 0, 1))
    assert first == same
    assert len(first) == len(other)
    images = [Digits(split_seed=seed).dataset("test") for seed in (0, 1)]
    assert any(not torch.equal(images[0][i][0], images[1][i][0]) for i in range(20))


def test_digits_without_validation():
    assert Digits(val_fraction=0.0).dataset("val") is None


def test_digits_are_scikit_learns_to_the_bit():
    splits = [Digits(test_fraction=0.5, val_fraction=0).dataset(split) for split in ("train", "test")]
    ours = sorted((label, image.numpy()[0].tobytes()) for split in splits for image, label in split)
    theirs = load_digits()
    grey = (theirs.images * (255 / 16)).round().astype(np.uint8)
    assert ours == sorted(zip(theirs.target.tolist(), (image.tobytes() for image in grey), strict=True))
