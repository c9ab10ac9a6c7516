"""A list of the same classes in another order: labels follow the names."""

import pickle

import pytest
import torch

from frostline.data.datamodule import ImageDataModule
from frostline.data.source import ArrayImages, LabelledImages, RelabelledImages


class Source:
    classes = ("a", "b", "c")

    def dataset(self, split: str) -> LabelledImages | None:
        images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1).expand(6, 8, 8).contiguous()
        return ArrayImages(images=images, labels=[0, 1, 2, 0, 1, 2])


def test_labels_are_places_in_the_list_that_is_taken() -> None:
    data = ImageDataModule(source=Source(), image_size=8, batch_size=6)
    assert data.images("train") is not None  # read before: it is read again
    assert data.take_order(["c", "a", "b"])
    assert data.classes == ["c", "a", "b"]
    images = data.images("test")
    assert images is not None
    assert list(images.labels or ()) == [1, 2, 0, 1, 2, 0]
    _, targets = next(iter(data.test_dataloader()))  # type: ignore[arg-type]
    assert targets.tolist() == [1, 2, 0, 1, 2, 0]
    assert pickle.loads(pickle.dumps(images)).identity == Source().dataset("test").identity  # type: ignore[union-attr]


def test_the_same_order_changes_nothing_and_other_names_are_not_taken() -> None:
    data = ImageDataModule(source=Source(), image_size=8, batch_size=6)
    assert data.take_order(["a", "b", "c"])
    assert isinstance(data.images("train"), ArrayImages)
    assert not data.take_order(["a", "b", "d"])
    assert not data.take_order(["a", "b"])
    assert data.classes == ["a", "b", "c"]


def test_soft_labels_follow_too() -> None:
    class Soft(LabelledImages):
        @property
        def labels(self) -> None:
            return None

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(3, 2, 2), torch.tensor([0.7, 0.2, 0.1])

    assert RelabelledImages(Soft(), [1, 2, 0])[0][1].tolist() == pytest.approx([0.1, 0.7, 0.2])
