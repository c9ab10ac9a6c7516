"""NaN, infinity and batch norms of one value: found wherever they lie, and one message about each."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from frostline.classifier import ImageClassifier
from frostline.data.order import ResumableBatchSampler
from frostline.data.spec import DataSpec
from frostline.freezing.policy import FreezePolicy
from frostline.numeric_checks import check_finite, diverged, not_finite, single_valued, smallest_batch
from frostline.options import TrainingOptions
from tests.quiet import quiet_trainer

SPEC = DataSpec(classes=["a", "b"], mean=[0.5] * 3, std=[0.5] * 3, image_size=8)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ({}, []),
        ({"fc.weight": torch.ones(2), "count": torch.tensor(3), "name": "nan", "rate": 0.1}, []),
        ({"fc.weight": torch.tensor([1.0, NAN]), "fc.bias": torch.tensor([INF])}, ["fc.weight", "fc.bias"]),
        (
            {"optimizer_states": [{"state": {0: {"exp_avg": torch.tensor(-INF)}}}]},
            ["optimizer_states.0.state.0.exp_avg"],
        ),
        ({"half": torch.tensor([6e4, INF], dtype=torch.float16), "none": None, "empty": torch.ones(0)}, ["half"]),
        ({"brain": (torch.tensor(NAN, dtype=torch.bfloat16),)}, ["brain.0"]),
    ],
    ids=["empty", "finite", "weights", "optimizer", "half", "bfloat16"],
)
def test_not_finite_names_every_tensor(state: dict[str, Any], names: list[str]) -> None:
    assert not_finite(state) == names


def test_a_file_is_refused_with_its_name_and_its_tensors() -> None:
    state = {f"layer{index}": torch.tensor(NAN) for index in range(5)}
    with pytest.raises(ValueError, match=r"^best\.ckpt: holds NaN or infinity in layer0, layer1, layer2 and 2 more\."):
        check_finite("best.ckpt", state)


def test_the_message_says_whether_the_images_or_the_training_are_to_blame() -> None:
    images = torch.zeros(4, 3, 2, 2)
    text = "The loss became nan at step 7 (epoch 1). "
    advice = "The last checkpoint, if any, is from before. A smaller learning rate (lr=…), gradient_clip_val=1 or "
    assert str(diverged("The loss became nan", step=7, epoch=1, images=images)).startswith(text + advice)
    assert str(diverged("The loss became nan", step=7, epoch=1)).startswith(text + advice)
    images[1, 0, 0, 0], images[3] = NAN, INF
    expected = text + "Images of the batch that hold NaN or infinity: 2. Correct them or leave them out"
    assert str(diverged("The loss became nan", step=7, epoch=1, images=images)) == expected
    bytes_ = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    assert advice in str(diverged("The loss became nan", step=7, epoch=1, images=bytes_))


# A batch of one image


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
    training = TrainingOptions(optimizer=partial(torch.optim.SGD, lr=0.01))
    classifier = ImageClassifier(network=network(), data_spec=SPEC, training=training)
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
