import pytest
import torch
from torch import nn

from frostline.autograd.observe import LOSS, flops_of, observe

from .networks import IMAGES, cross_entropy, observed, resnet


def test_each_node_is_claimed_by_the_module_whose_forward_made_it():
    graph = observed("layer4", "fc").graph
    made = [(node.operation, node.module) for node in graph.nodes if not node.is_leaf]
    assert made[:6] == [
        ("NllLoss", LOSS), ("LogSoftmax", LOSS), ("Addmm", "fc"), ("T", "fc"), ("View", ""), ("Mean", "avgpool"),
    ]  # fmt: skip
    assert ("Add", "layer4.1") in made
    assert ("Add", "layer4.0") in made
    assert ("NativeBatchNorm", "layer4.0.downsample.1") in made
    assert not [name for operation, name in made if name is None]


def test_an_operation_between_two_modules_belongs_to_their_caller():
    class Caller(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x):
            return self.second(input=torch.tanh(self.first(x)))

    network = nn.Sequential(Caller())
    graph = observe(network, torch.rand(3, 2), torch.sum, count_flops=False).graph
    assert [node.module for node in graph.nodes if node.operation == "Tanh"] == ["0"]
    assert {node.module for node in graph.nodes if node.operation == "Addmm"} == {"0.first", "0.second"}


def test_shapes_and_flops_are_those_computed_by_hand():
    observation = observed("fc")
    assert observation.shapes["layer4"] == (2, 512, 2, 2)
    assert observation.shapes[""] == (2, 10)
    # A multiply-add is two: 2 · output entries · inputs per output entry.
    assert observation.flops["fc"] == 2 * 10 * 512
    assert observation.flops["conv1"] == 2 * (64 * 32 * 32) * (3 * 7 * 7)
    assert observation.flops["layer1"] == 4 * 2 * (64 * 16 * 16) * (64 * 3 * 3)
    assert observation.flops["bn1"] == 0
    stages = sum(observation.flops[name] for name in ("conv1", "layer1", "layer2", "layer3", "layer4", "fc"))
    assert observation.flops[""] == stages


def test_counting_flops_moves_no_statistics_and_restores_every_mode():
    network = resnet("fc").train()
    network.layer1.eval()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    flops_of(network, IMAGES)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert (network.training, network.layer1.training, network.layer1[0].bn1.training) == (True, False, False)
    assert network.layer2[0].training


def test_modes_are_restored_and_hooks_removed_when_the_network_fails():
    network = resnet("fc").train()
    with pytest.raises(RuntimeError):
        observe(network, torch.rand(1, 5, 64, 64), cross_entropy)
    assert network.training
    with pytest.raises(RuntimeError):
        observe(network, torch.rand(1, 5, 64, 64), cross_entropy, count_flops=False)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_observed_loss_is_the_networks_own_and_can_go_backward():
    network = resnet("fc").eval()
    observation = observe(network, IMAGES, cross_entropy)
    assert torch.equal(observation.loss, cross_entropy(network(IMAGES)))
    observation.loss.backward()
    assert network.fc.weight.grad is not None
