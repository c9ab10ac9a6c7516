"""Fashion-MNIST by file: where it is looked for, what is refused."""

import gzip
import struct
from collections import Counter

import numpy as np
import pytest
import torch

from frostline.data import fashion_mnist
from frostline.data.fashion_mnist import FashionMNIST


def write(path, values, pack):
    content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if pack else content)


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "CACHE_FOLDER", tmp_path / "cache")


def make(folder, pack=True, train=200, test=50):
    folder.mkdir(parents=True, exist_ok=True)
    ending = ".gz" if pack else ""
    for part, length in (("train", train), ("t10k", test)):
        values = np.arange(length, dtype=np.uint8)
        write(folder / f"{part}-images-idx3-ubyte{ending}", np.tile(values[:, None, None], (1, 28, 28)), pack)
        write(folder / f"{part}-labels-idx1-ubyte{ending}", values % 10, pack)
    return folder


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("below", [".", "FashionMNIST/raw", "raw"])
def test_the_four_files_in_a_folder(tmp_path, pack, below):
    make(tmp_path / "own" / below, pack)
    source = FashionMNIST(path=tmp_path / "own", val_length=20)
    assert [len(source.dataset(split)) for split in ("train", "val", "test")] == [180, 20, 50]
    image, label = source.dataset("test")[13]
    assert torch.equal(image, torch.full((3, 28, 28), 13, dtype=torch.uint8))
    assert source.classes[label] == "Dress"


def test_debians_files_are_found_without_a_path(tmp_path):
    make(tmp_path / "debian")
    assert len(FashionMNIST(val_length=0).dataset("train")) == 200


def test_subsets_are_stratified_seeded_and_disjoint(tmp_path):
    folder = make(tmp_path / "own")

    def pixels(images):
        return [int(images[index][0][0, 0, 0]) for index in range(len(images))]

    source = FashionMNIST(path=folder, train_length=100, val_length=20)
    assert source.split_note == "20 training images for val (val_length=20, split_seed=0)"
    train, val = source.dataset("train"), source.dataset("val")
    assert Counter(train.labels) == dict.fromkeys(range(10), 10)
    assert Counter(val.labels) == dict.fromkeys(range(10), 2)
    assert not set(pixels(train)) & set(pixels(val))
    again = FashionMNIST(path=folder, train_length=100, val_length=20)
    other = FashionMNIST(path=folder, train_length=100, val_length=20, split_seed=1)
    assert pixels(again.dataset("train")) == pixels(train)
    assert pixels(other.dataset("val")) != pixels(val)


def test_no_validation(tmp_path):
    assert FashionMNIST(path=make(tmp_path / "own"), val_length=0).dataset("val") is None


def test_missing_files_name_three_ways_out(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        FashionMNIST(path=tmp_path / "own")
    for way in ("path=FOLDER", "apt-get install dataset-fashion-mnist", "download=True"):
        assert way in str(caught.value)


def test_corrupt_files_are_named(tmp_path):
    images = make(tmp_path / "own") / "train-images-idx3-ubyte.gz"
    intact = images.read_bytes()
    for content in (intact[:-50], gzip.compress(gzip.decompress(intact)[:-1]), gzip.compress(b"<html>"), b""):
        images.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: corrupt, or not an IDX file \("):
            FashionMNIST(path=tmp_path / "own")


def test_labels_that_do_not_fit(tmp_path):
    folder = make(tmp_path / "own")
    write(folder / "train-labels-idx1-ubyte.gz", np.zeros(199, np.uint8), True)
    with pytest.raises(ValueError, match="train has 200 images and 199 labels"):
        FashionMNIST(path=folder)
    write(folder / "train-labels-idx1-ubyte.gz", np.full(200, 10, np.uint8), True)
    with pytest.raises(ValueError, match="label 10"):
        FashionMNIST(path=folder)


def test_more_images_than_there_are(tmp_path):
    folder = make(tmp_path / "own")
    with pytest.raises(ValueError, match="181 was asked for, but there are 180"):
        FashionMNIST(path=folder, train_length=181, val_length=20)
    with pytest.raises(ValueError, match="leaves no image"):
        FashionMNIST(path=folder, val_length=200)
