import pytest
import torch

from frostline.autograd.blocks import blocks_of
from frostline.autograd.observe import LOSS, observe

from .networks import IMAGES, cross_entropy, observed, resnet

STAGES = ["stem", "layer1", "layer2", "layer3", "layer4", "head"]


def test_stages_come_in_execution_order_with_the_known_parameter_counts():
    blocks = blocks_of(observed("fc"))
    assert [block.stage for block in blocks] == STAGES
    assert [block.parameters for block in blocks] == [9536, 147_968, 525_568, 2_099_712, 8_393_728, 5130]
    assert sum(block.parameters for block in blocks) == 11_181_642  # ResNet-18 with ten classes
    assert [block.tensors for block in blocks] == [3, 12, 15, 15, 15, 2]


@pytest.mark.parametrize(
    ("trainable", "nodes"),
    [
        (("fc",), [0, 0, 0, 0, 0, 4]),
        (("layer4", "fc"), [0, 0, 0, 0, 31, 6]),
        (("layer2",), [0, 0, 31, 16, 16, 3]),  # through frozen stages: their operations without their leaves
        (("",), [7, 26, 31, 31, 31, 6]),
    ],
)
def test_backward_reaches_the_stages_down_to_the_frost_line(trainable, nodes):
    observation = observed(*trainable)
    blocks = blocks_of(observation)
    assert [block.nodes for block in blocks] == nodes
    loss_nodes = sum(node.module == LOSS for node in observation.graph.nodes)
    assert sum(nodes) + loss_nodes == len(observation.graph.nodes)


def test_the_stem_keeps_what_was_counted_by_hand():
    stem = blocks_of(observed(""))[0]
    images, maps = 2 * 3 * 64 * 64 * 4, 2 * 64 * 32 * 32 * 4
    indices, statistics = 2 * 64 * 16 * 16 * 8, 2 * 64 * 4
    assert stem.kept_bytes == images + 2 * maps + indices + statistics


def test_weights_of_frozen_stages_that_the_gradient_passes_are_no_activations():
    passed, trained = (
        {block.stage: block.kept_bytes for block in blocks_of(observed(*names))} for names in (("layer2",), ("",))
    )
    assert passed["layer4"] == trained["layer4"]
    assert passed["layer3"] == trained["layer3"]


def test_states_say_what_trains():
    states = {block.stage: block.state for block in blocks_of(observed("layer4.1", "fc"))}
    assert states["layer3"] == "frozen"
    assert states["layer4"] == "partly trainable"
    assert states["head"] == "trainable"


def test_a_network_of_the_users_own_has_its_children_as_stages():
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    network[0].requires_grad_(False)
    observation = observe(network, torch.rand(5, 4), torch.sum)
    blocks = blocks_of(observation)
    assert [(block.stage, block.state, block.nodes, block.flops) for block in blocks] == [
        ("0", "frozen", 0, 2 * 4 * 3),
        ("2", "trainable", 4, 2 * 3 * 2),
    ]


def test_an_operation_before_all_stages_belongs_to_the_first():
    class Doubling(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(2 * x)

    network = Doubling(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    images = torch.rand(5, 4, requires_grad=True)
    nodes = [block.nodes for block in blocks_of(observe(network, images, torch.sum))]
    assert nodes == [2 + 4, 4]  # the doubling and the images; addmm, transpose and two leaves each


def test_flops_may_be_left_out():
    observation = observe(resnet("fc"), IMAGES, cross_entropy, count_flops=False)
    assert {block.flops for block in blocks_of(observation)} == {None}
