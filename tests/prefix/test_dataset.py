"""Batches whose images may be replaced by their features."""

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from frostline.data.datamodule import ImageDataModule
from frostline.data.image_folder import ImageFolder
from frostline.data.loading import Loading
from frostline.data.order import SampleIndex
from frostline.data.random_noise import RandomNoise
from frostline.data.source import ArrayImages
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation, evaluation_transform, training_transform
from frostline.prefix.dataset import FeatureDataset
from frostline.prefix.store import Rows, open_store


def module(**options) -> ImageDataModule:
    source = Synthetic(length=20, val_length=6, test_length=0, classes=3, image_size=16)
    return ImageDataModule(source=source, image_size=16, batch_size=4, **options)


def cached(data: ImageDataModule, split: str) -> FeatureDataset:
    """The split's dataset, which its loader reads from now on."""
    images, transform = data.images_and_transform(split)
    dataset = FeatureDataset(images, transform=transform)
    data.replace_datasets({**data._replaced, split: dataset})
    return dataset


def test_without_a_store_a_batch_has_images() -> None:
    plain, keyed = module(augment=Augmentation(name="none")), module(augment=Augmentation(name="none"))
    cached(keyed, "train")
    cached(keyed, "val")
    for one, other in (
        (plain.train_dataloader(), keyed.train_dataloader()),
        (plain.val_dataloader(), keyed.val_dataloader()),
    ):
        for (images, targets), batch in zip(one, other, strict=True):
            assert torch.equal(batch.values, images)
            assert torch.equal(batch.targets, targets)
            assert not batch.are_features


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_has_features_where_the_store_has_them_all(tmp_path: Path, workers: int) -> None:
    data = module(loading=Loading(workers=workers))
    dataset = cached(data, "val")
    store = open_store(
        tmp_path, key="k", rows=Rows(count=6, shape=(2,), dtype="float32", strides=(1,)), limit_bytes=10**9, about={}
    )
    store.write(np.arange(5), torch.arange(10.0).view(5, 2))
    dataset.handle.put(store)
    first, second = data.val_dataloader()
    assert first.are_features
    assert first.values[:, 0].tolist() == [0, 2, 4, 6]
    assert first.rows.tolist() == [0, 1, 2, 3]
    assert first.generation == dataset.handle.get()[0]
    assert first.targets.tolist() == [0, 1, 2, 0]
    assert not second.are_features
    assert torch.equal(second.values, dataset.decoded(np.array([4, 5])))


class Counted(ArrayImages):
    """Counts how often an image is asked for."""

    asked = 0

    def __getitem__(self, index: int):
        type(self).asked += 1
        return super().__getitem__(index)


def test_an_image_with_features_is_never_asked_for(tmp_path: Path) -> None:
    images = Counted(images=torch.zeros(3, 8, 8, dtype=torch.uint8), labels=[0, 1, 2])
    keyed = FeatureDataset(images, transform=evaluation_transform(image_size=8))
    store = open_store(
        tmp_path, key="k", rows=Rows(count=3, shape=(2,), dtype="float32", strides=(1,)), limit_bytes=10**9, about={}
    )
    store.write(np.array([0, 1, 2]), torch.zeros(3, 2))
    keyed.handle.put(store)
    batch = keyed.__getitems__([2, 0])
    assert Counted.asked == 0
    assert batch.targets.tolist() == [2, 0]


@pytest.mark.parametrize("safe", [True, False])
def test_threads_decode_images_that_allow_it_to_the_same_bits(monkeypatch: pytest.MonkeyPatch, safe: bool) -> None:
    seen = set()

    class Watched(ArrayImages):
        thread_safe = safe

        def __getitem__(self, index: int):
            seen.add(threading.get_ident())
            warnings.simplefilter("ignore")
            return super().__getitem__(index)

    pixels = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = FeatureDataset(
        Watched(images=pixels, labels=[0] * 8), transform=evaluation_transform(image_size=8, resize=1.0)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = dataset.decoded(np.arange(8))
    assert seen == {threading.get_ident()}
    monkeypatch.undo()
    threads, filters = torch.get_num_threads(), list(warnings.filters)
    torch.set_num_threads(2)
    try:
        assert torch.equal(dataset.decoded(np.arange(8)), alone)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (len(seen) > 1) == safe
    assert warnings.filters == filters


def views(number: int, seed: int = 0) -> FeatureDataset:
    images = Synthetic(length=12, classes=3, image_size=24).dataset("train")
    transform = training_transform(Augmentation(name="standard"), image_size=16)
    return FeatureDataset(images, transform=transform, views=number, seed=seed)


def test_a_view_is_a_function_of_image_and_view_in_every_run() -> None:
    one, other = views(4, seed=0), views(4, seed=1)
    rows = np.arange(48)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pixels = one.decoded(rows)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(pixels, other.decoded(rows))
    assert not torch.equal(pixels[0], pixels[1])


def test_which_view_is_drawn_changes_from_epoch_to_epoch_and_with_the_seed() -> None:
    one, other = views(4, seed=0), views(4, seed=1)
    draws = [[SampleIndex(epoch, place, place) for place in range(12)] for epoch in range(20)]
    rows = np.array([[one.row(draw) for draw in epoch] for epoch in draws])
    assert (rows // 4 == np.arange(12)).all()
    assert set((rows % 4)[:, 0]) == {0, 1, 2, 3}
    assert not np.array_equal(rows[0], rows[1])
    assert [other.row(draw) for draw in draws[0]] != rows[0].tolist()
    # Each about equally often: 240 draws of 4 views, standard deviation 6.7.
    assert all(35 < count < 85 for count in np.bincount((rows % 4).ravel()))


def test_the_rows_of_epochs_are_each_named_once() -> None:
    draws = [[SampleIndex(epoch, place, place) for place in range(epoch, epoch + 2)] for epoch in range(2)]
    assert views(1).rows_of(draws).tolist() == [0, 1, 2]
    two = views(2)
    assert two.rows_of(draws).tolist() == sorted({two.row(index) for epoch in draws for index in epoch})


def test_soft_labels_need_to_be_known_without_the_images() -> None:
    images = RandomNoise(length=4, val_length=0, test_length=0, classes=3, image_size=8).dataset("train")
    with pytest.raises(ValueError, match="soft_labels"):
        FeatureDataset(images, transform=evaluation_transform(image_size=8))


def test_identity_changes_with_what_is_seen_and_with_nothing_else(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(4):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / label / f"{index}.png")

    def identity(**options) -> str:
        return ImageFolder(path=tmp_path, val_fraction=0.25, test_fraction=0.25, **options).dataset("train").identity

    first = identity()
    assert identity() == first
    assert identity(split_seed=1) != first
    Image.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "a" / "0.png")
    Image.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "a" / "1.png")
    Image.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "a" / "2.png")
    Image.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "a" / "3.png")
    assert identity() != first
    pixels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    other = pixels.clone()
    other[1, 3, 3] = 1
    assert ArrayImages(images=pixels, labels=[0, 1]).identity != ArrayImages(images=other, labels=[0, 1]).identity
    drawn = [Synthetic(image_size=16, seed=seed).dataset("train").identity for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
