"""Batch norms in training on a batch of one: one message with the key, before the first step where it can be known."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from frostline.batch_of_one import single_valued, smallest_batch
from frostline.classifier import ImageClassifier
from frostline.data.order import ResumableBatchSampler
from frostline.freezing.policy import FreezePolicy
from tests.quiet import quiet_trainer

IMAGES = {"classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 8, "resize": 1.0}


def network() -> nn.Sequential:
    """Batch norms of 64 values per channel and image, and of one."""
    found = nn.Sequential()
    found.conv = nn.Conv2d(3, 4, 3, padding=1)
    found.wide = nn.BatchNorm2d(4)
    found.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found.narrow = nn.BatchNorm1d(4)
    found.fc = nn.Linear(4, 2)
    return found


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        (FreezePolicy.static("all"), ["narrow"]),
        (FreezePolicy.static("fc"), []),
        (FreezePolicy.static("fc", batch_norm="drift"), ["narrow"]),
        (FreezePolicy.static("fc", batch_norm="affine"), []),
        (FreezePolicy.static("fc", batch_norm="recalibrate"), ["narrow"]),
        (
            FreezePolicy.from_dict(
                {"phases": [{"name": "a", "train": ["fc"], "until": {"epochs": 1}}, {"name": "b", "train": ["all"]}]}
            ),
            ["narrow"],
        ),
    ],
    ids=["all", "head", "drift", "affine", "recalibrate", "a later phase"],
)
def test_batch_norms_of_one_value_are_found_in_any_phase(policy: FreezePolicy, names: list[str]) -> None:
    net = network().train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    assert single_valued(net, policy.resolve(net), torch.zeros(1, 3, 8, 8), processes=1) == names
    assert all(module.training for module in net.modules())
    assert all(value.equal(state[name]) for name, value in net.state_dict().items())


def test_a_synchronised_batch_norm_counts_the_images_of_all_processes() -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    resolved = FreezePolicy.static("all").resolve(net)
    assert single_valued(net, resolved, torch.zeros(1, 3, 8, 8), processes=1) == ["narrow"]
    assert single_valued(net, resolved, torch.zeros(1, 3, 8, 8), processes=2) == []


def test_the_smallest_batch() -> None:
    data = TensorDataset(torch.zeros(9, 1))
    assert smallest_batch(DataLoader(data, batch_size=4)) == 1
    assert smallest_batch(DataLoader(data, batch_size=4, drop_last=True)) == 4
    assert smallest_batch(DataLoader(data, batch_size=3)) == 3
    assert smallest_batch(DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 2, False))) == 1
    assert smallest_batch(DataLoader(data, batch_size=None)) is None
    assert smallest_batch([1, 2]) is None
    batches = partial(ResumableBatchSampler, order=lambda _: torch.arange(9), position=lambda: (0, 0))
    assert smallest_batch(DataLoader(data, batch_sampler=batches(length=9, batch_size=4, world_size=4))) == 1
    assert smallest_batch(DataLoader(data, batch_sampler=batches(length=9, batch_size=4, world_size=2))) == 2
    assert smallest_batch(DataLoader(data, batch_sampler=batches(length=1, batch_size=4))) == 1


def fit(loader: DataLoader[Any]) -> ImageClassifier:
    classifier = ImageClassifier(network=network(), images=IMAGES)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(classifier, loader)
    return classifier


@pytest.mark.filterwarnings("ignore")
def test_a_last_batch_of_one_is_refused_before_the_first_step_with_ways_out() -> None:
    data = TensorDataset(torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 0, 1, 0]))
    message = (
        r"^batch_size: a batch norm that trains \(`narrow`\) would see one value per channel in a batch of one "
        r"image.*Use batch_size=2 or more; accumulating gradients does not help.*"
        r"image_size.*batch_norm='frozen' in the freezing policy\)"
    )
    with pytest.raises(ValueError, match=message):
        fit(DataLoader(data, batch_size=4))
    # Where the loader does not say how large its batches are, the first such batch does.
    with pytest.raises(ValueError, match=r"^batch_size: a batch norm that trains \(one\)"):
        fit(DataLoader(data, batch_sampler=[[0, 1], [2]]))
