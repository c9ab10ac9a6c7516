"""torchvision's datasets by name: each is asked for its splits in its own way."""

import inspect
import json
import struct

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from frostline.data.source import ImageSource
from frostline.data.torchvision_source import DATASETS, TorchvisionSource, labels_of


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_supported_class_takes_the_keys_of_its_splits(name):
    signature = inspect.signature(getattr(datasets, name))
    for choice in DATASETS[name].values():
        signature.bind_partial(**choice)
        for key in choice:
            assert key in signature.parameters


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 0)).save(path)


def idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


def test_fake_data_has_no_splits_and_is_divided():
    options = {"size": 60, "image_size": [3, 8, 8], "num_classes": 3}
    source = TorchvisionSource(dataset="FakeData", options=options)
    assert isinstance(source, ImageSource)
    assert source.classes == ["0", "1", "2"]
    lengths = [len(source.dataset(split)) for split in ("train", "val", "test")]
    assert sum(lengths) == 60
    assert lengths[0] > lengths[2] > lengths[1] > 0
    image, label = source.dataset("val")[0]
    assert image.mode == "RGB"
    assert label == source.dataset("val").labels[0]


def test_a_train_flag_and_a_validation_split_off_training(tmp_path):
    for part, length in (("train", 40), ("t10k", 12)):
        values = np.arange(length, dtype=np.uint8)
        raw = tmp_path / "MNIST" / "raw"
        idx(raw / f"{part}-images-idx3-ubyte", np.tile(values[:, None, None], (1, 28, 28)))
        idx(raw / f"{part}-labels-idx1-ubyte", values % 10)
    source = TorchvisionSource(dataset="MNIST", root=str(tmp_path), val_fraction=0.25)
    assert [len(source.dataset(split)) for split in ("train", "val", "test")] == [30, 10, 12]
    seen = {int(np.asarray(source.dataset(split)[i][0])[0, 0, 0]) for split in ("train", "val") for i in range(10)}
    assert len(seen) == 20
    assert source.classes[3] == "3 - three"


def test_splits_train_and_test_by_name(tmp_path):
    meta = tmp_path / "food-101" / "meta"
    meta.mkdir(parents=True)
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        (meta / f"{split}.json").write_text(json.dumps({c: [f"{c}/{n}" for n in numbers] for c in ("pie", "soup")}))
        for name in ("pie", "soup"):
            for number in numbers:
                picture(tmp_path / "food-101" / "images" / name / f"{number}.jpg", number)
    source = TorchvisionSource(dataset="Food101", root=str(tmp_path), val_fraction=0.25)
    assert source.classes == ["pie", "soup"]
    assert [len(source.dataset(split)) for split in ("train", "val", "test")] == [6, 2, 4]


def test_a_split_called_valid_is_val(tmp_path):
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        for name in ("aa", "bb"):
            for number in range(count):
                picture(tmp_path / "country211" / split / name / f"{number}.jpg", number)
    source = TorchvisionSource(dataset="Country211", root=str(tmp_path))
    assert [len(source.dataset(split)) for split in ("train", "val", "test")] == [6, 4, 2]


def test_a_whole_folder(tmp_path):
    for name in ("Forest", "River"):
        for number in range(10):
            picture(tmp_path / "eurosat" / "2750" / name / f"{number}.jpg", number)
    source = TorchvisionSource(dataset="EuroSAT", root=str(tmp_path))
    assert [len(source.dataset(split)) for split in ("train", "val", "test")] == [14, 2, 4]


def test_labels_without_an_attribute_are_read():
    images = datasets.FakeData(size=5, image_size=(3, 2, 2))
    assert labels_of(images) == [int(images[index][1]) for index in range(5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "CIFAR11"}, "is not supported. Did you mean `CIFAR10`"),
        ({"dataset": "CocoDetection"}, "is in torchvision, but not as one label per image"),
        ({"dataset": "FakeData", "options": {"siez": 3}}, r"^options: FakeData has no option 'siez'.*size"),
        ({"dataset": "CIFAR10", "options": {"train": True}}, r"^options: CIFAR10 has no option 'train'"),
        ({"dataset": "FER2013", "download": True}, "cannot download FER2013"),
    ],
)
def test_user_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionSource(**options)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CIFAR10 cannot be read from root=.*\(download=True"):
        TorchvisionSource(dataset="CIFAR10", root=str(tmp_path))
