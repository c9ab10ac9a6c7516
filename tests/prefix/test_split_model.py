"""Where a network is cut, and that its two parts are the network."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from frostline.freezing.apply import apply_phase
from frostline.freezing.policy import FreezePolicy
from frostline.models.backbones import build_backbone
from frostline.prefix.split_model import SplitModel, split_at_frost_line
from frostline.prefix.traced import SplitError, trace

ALL = FreezePolicy.static("all")


def cut(network: nn.Module, *train: str, **options: str) -> SplitModel | None:
    phase = FreezePolicy.static(*train, **options).resolve(network).phases[0]
    apply_phase(network, phase)
    return split_at_frost_line(network, trainable=phase.trainable, held=phase.eval_modules)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=4)


@pytest.mark.parametrize(
    ("train", "first"),
    [
        ("head", "fc"),
        ("layer4", "layer4"),
        ("layer4.1.*", "layer4.1"),
        ("layer3", "layer3"),
        ("layer1", "layer1"),
        ("layer2.1.conv2.weight", "layer2.1"),
    ],
)
def test_the_line_lies_before_the_first_block_that_trains(network: nn.Module, train: str, first: str) -> None:
    line = cut(network, train)
    assert line is not None
    assert line.after.modules[0] == first


@pytest.mark.parametrize("train", ["all", "stem"])
def test_without_a_frozen_beginning_there_is_no_line(network: nn.Module, train: str) -> None:
    assert cut(network, train) is None


@pytest.mark.parametrize("batch_norm", ["drift", "affine", "train"])
def test_batch_norms_that_change_are_not_before_the_line(network: nn.Module, batch_norm: str) -> None:
    line = cut(network, "head", batch_norm=batch_norm)
    # The first convolution alone: its batch norm changes.
    assert line is not None
    assert line.before.modules == ("conv1",)


@pytest.mark.parametrize("batch_norm", ["frozen", "recalibrate"])
def test_batch_norms_that_hold_still_are(network: nn.Module, batch_norm: str) -> None:
    line = cut(network, "head", batch_norm=batch_norm)
    assert line is not None
    assert line.after.modules == ("fc",)


def test_dropout_that_drops_is_not_before_the_line() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5))
    network = nn.Sequential(nn.Conv2d(3, 3, 3), block, nn.Flatten(), nn.Linear(64, 2))
    held, dropping = cut(network, "3.*"), cut(network, "3.*", dropout="active")
    assert held is not None
    assert dropping is not None
    assert held.after.modules == ("3",)
    assert dropping.after.modules[0] == "1.1"


@pytest.mark.parametrize("build", [resnet18, resnet50])
@pytest.mark.parametrize("train", ["head", "layer3"])
def test_the_two_parts_are_the_network_to_the_bit(build, train: str) -> None:
    torch.manual_seed(1)
    network = build(num_classes=4)
    line = cut(network, train)
    images = torch.rand(3, 3, 64, 64)
    assert line is not None
    assert torch.equal(line.suffix(line.prefix(images)), network(images))


def test_the_prefix_leaves_no_graph_and_the_gradients_of_the_suffix_are_the_network_s(network: nn.Module) -> None:
    line, images = cut(network, "layer4", "head"), torch.rand(2, 3, 64, 64)
    assert line is not None
    whole = copy.deepcopy(network)
    features = line.prefix(images)
    assert not features.requires_grad
    line.suffix(features).sum().backward()
    whole(images).sum().backward()
    for name, parameter in network.named_parameters():
        expected = whole.get_parameter(name).grad
        assert (parameter.grad is None) == (expected is None), name
        if expected is not None:
            assert torch.equal(parameter.grad, expected), name


@pytest.mark.parametrize("size", [32, 64])
def test_an_image_s_features_do_not_depend_on_its_batch(network: nn.Module, size: int) -> None:
    line, images = cut(network, "head"), torch.rand(8, 3, size, size).contiguous(memory_format=torch.channels_last)
    assert line is not None
    whole = line.prefix(images)
    for places in ([0], [3], [5, 2], [7, 1, 4]):
        assert torch.equal(line.prefix(images[places]), whole[places]), places


class Own(nn.Module):
    """A network whose forward is what a test gives."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))
        self.own_forward = forward

    def forward(self, x):
        return self.own_forward(self, x)


@pytest.mark.parametrize(
    ("forward", "train", "before"),
    [
        (lambda net, x: net.fc(net.second(net.first(x)).relu()), "fc", ("first", "second")),
        # Skip connections: of two tensors neither is enough.
        (lambda net, x: net.fc(net.second(y := net.first(x)) + y), "second", ("first",)),
        (lambda net, x: net.fc((y := net.second(net.first(x))) + y.mean(1, keepdim=True)), "fc", ("first", "second")),
        # A parameter of the network's own that trains, or is read on both sides.
        (lambda net, x: net.fc(net.second(net.first(x) * net.scale)), "scale", ("first",)),
        (lambda net, x: net.fc(net.second(net.first(x) * net.scale) * net.scale), "fc", ("first", "second")),
        # What depends on other images, on chance, or overwrites the features.
        (lambda net, x: net.fc(net.second((y := net.first(x)) - y.mean(0))), "fc", ("first",)),
        (lambda net, x: net.fc(net.second(torch.cat([net.first(x)] * 2))), "fc", ("first",)),
        (lambda net, x: net.fc(net.second(nn.functional.dropout(net.first(x)))), "fc", ("first",)),
        (lambda net, x: net.second(net.first(x)).relu_().mul(net.scale), "scale", ("first", "second")),
    ],
)  # fmt: skip
def test_the_split_is_where_one_tensor_crosses_that_is_a_function_of_one_image(forward, train, before) -> None:
    network = Own(forward)
    line, inputs = cut(network, train), torch.rand(3, 4)
    assert line is not None
    assert line.before.modules == before
    torch.manual_seed(0)
    whole = network(inputs)
    torch.manual_seed(0)
    assert torch.equal(line.suffix(line.prefix(inputs)), whole)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda net, x: net.fc(net.first(x) if x.sum() > 0 else x), r"cannot trace the forward of Own \(symbolically"),
        (lambda net, x: net.fc(net.first(x) if net.training else x), "something else in training than in evaluation"),
        (lambda net, x: net.fc(net.first(x) + torch.ones(4)), "makes a tensor of its own"),
        (lambda net, x: net.fc(net.first(x)) + x[:, :2], "more than one tensor of Own crosses"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_split_says_why(forward, reason) -> None:
    with pytest.raises(SplitError, match=reason):
        cut(Own(forward), "fc")


def test_tracing_leaves_modes_and_state_as_they_were(network: nn.Module) -> None:
    modes, keys = [module.training for module in network.modules()], list(network.__dict__)
    trace(network, ["layer1", "layer1.0"])
    assert [module.training for module in network.modules()] == modes
    assert list(network.__dict__) == keys


def test_splitting_writes_to_no_buffer() -> None:
    network = build_backbone({"name": "timm/resnetv2_50"})
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    assert cut(network, "from:stages.2") is not None
    assert [name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])] == []


@pytest.mark.parametrize("size", [1, 3, 6, 9])
def test_with_pointwise_convolutions_features_are_computed_in_batches_of_one_size(size: int) -> None:
    torch.manual_seed(0)
    network, images = resnet50(num_classes=4), torch.rand(12, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    phase = FreezePolicy.static("head").resolve(network).phases[0]
    apply_phase(network, phase)
    line = split_at_frost_line(network, trainable=phase.trainable, held=phase.eval_modules, batch=6)
    assert torch.equal(line.prefix(images[:size]), line.prefix(images)[:size])


def test_a_tensor_that_trains_under_another_name_is_not_before_the_line() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    assert split_at_frost_line(network, trainable={"0.weight"}, held={"0", "1", "2"}) is None


def test_modules_that_sync_batch_norm_replaced_are_found(network: nn.Module) -> None:
    own = copy.deepcopy(network)
    line, images = cut(own, "head"), torch.rand(2, 3, 64, 64)
    assert line is not None
    before = line.prefix(images)
    own.bn1 = copy.deepcopy(own.bn1)
    own.bn1.bias.data += 1
    assert not torch.equal(line.prefix(images), before)
