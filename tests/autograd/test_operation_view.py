import random

import pytest
import torch
from torch import nn
from torchvision.models import densenet121

from frostline.autograd.canvas import POINT
from frostline.autograd.drawing import draw, draw_operations
from frostline.autograd.graph import Graph, Node
from frostline.autograd.operation_view import lanes_of, operations_after

from .networks import IMAGES, observed
from .pictures import canvas, faults, labels


@pytest.mark.parametrize("trainable", [("fc",), ("layer4", "fc"), ("layer2",), ("",)])
def test_no_label_of_a_resnet18_overlaps_and_it_fits_1280_pixels(trainable):
    figure = draw_operations(observed(*trainable).graph, title="ResNet-18").figure
    assert faults(figure) == []
    assert canvas(figure).right <= 1280
    assert min(text.get_fontsize() / POINT for text in figure.axes[0].texts) >= 11


@pytest.mark.parametrize("trainable", [("fc",), ("layer4", "fc"), ("",)])
def test_every_node_is_drawn(trainable):
    graph = observed(*trainable).graph
    texts = [label.text for label in labels(draw_operations(graph).figure)]
    for node in graph.leaves:
        assert any(text.startswith(f"{node.parameter} (") for text in texts), node
    operations = [node.operation for node in graph.nodes if not node.is_leaf]
    for operation in set(operations):
        assert texts.count(operation) == operations.count(operation)


def test_what_is_frozen_and_what_is_not_reached_stands_below():
    network = nn.ModuleDict({"frozen": nn.Linear(2, 2), "used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    network["frozen"].requires_grad_(False)
    figure = draw(network["used"](network["frozen"](torch.rand(1, 2))).sum(), network=network).figure
    texts = [label.text for label in labels(figure)]
    assert "Below the frost line: 2 parameter tensors are in no graph and get no gradient" in texts
    assert "frozen (2)" in texts
    assert "2 parameter tensors are trainable and yet not reached: the loss does not depend on them" in texts
    assert "unused (2)" in texts
    assert faults(figure) == []


def test_a_leaf_read_by_several_operations_stands_beside_each():
    x = torch.rand(3, requires_grad=True)
    figure = draw(x.sin() + x.cos() * (x * x), names={"x": x}).figure
    texts = [label.text for label in labels(figure)]
    assert texts.count("x (3)") == 2
    assert texts.count("x (3) used 2 times") == 1
    assert faults(figure) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: (nn.TransformerEncoderLayer(16, 4, 32), torch.rand(5, 2, 16)),
        lambda: (nn.GRU(3, 4), torch.rand(5, 2, 3)),
        lambda: (densenet121(num_classes=3), IMAGES),
    ],
    ids=["transformer", "gru", "densenet121"],
)
def test_other_networks_are_drawn_without_overlap(make):
    network, inputs = make()
    output = network(inputs)
    assert faults(draw((output[0] if isinstance(output, tuple) else output).sum(), network=network).figure) == []


def graph_of(nodes: int, edges: list[tuple[int, int]]) -> Graph:
    return Graph(tuple(Node(index, "Op") for index in range(nodes)), tuple(edges))


def test_a_chain_runs_in_one_lane_and_a_skip_connection_beside_it():
    for skipping in ([], [(0, 3)]):
        lanes, edges = lanes_of(graph_of(4, [(0, 1), (1, 2), (2, 3), *skipping]))
        assert lanes == dict.fromkeys(range(4), 0)
        assert edges == {(0, 1): 0, (1, 2): 0, (2, 3): 0} | dict.fromkeys(skipping, 1)


def test_a_lane_is_used_again_below_the_node_in_which_it_ends():
    lanes, _ = lanes_of(graph_of(5, [(0, 1), (0, 2), (2, 3), (2, 4)]))
    assert max(lanes.values()) == 1


def test_no_edge_of_a_random_graph_runs_through_a_node():
    for seed in range(40):
        draw = random.Random(seed)
        nodes = draw.randint(2, 30)
        edges = [(draw.randrange(node), node) for node in range(1, nodes) for _ in range(draw.randint(1, 3))]
        lanes, lane_of_edge = lanes_of(graph_of(nodes, edges))
        assert set(lanes) == set(range(nodes))
        row = {node: place for place, node in enumerate(operations_after(graph_of(nodes, edges)))}
        for source, target in edges:
            between = [node for node in row if row[source] < row[node] < row[target]]
            assert row[source] < row[target]
            assert lane_of_edge[source, target] not in {lanes[node] for node in between}, seed


def test_a_short_branch_comes_right_after_the_operation_that_reads_it():
    # A long chain 1, 2, 3 and a branch of one node, which is the first input.
    graph = graph_of(5, [(0, 4), (0, 1), (1, 2), (2, 3)])
    assert list(operations_after(graph)) == [0, 4, 1, 2, 3]


def test_a_resnet_is_a_column_with_its_shortcuts_in_one_lane_beside_it():
    graph = observed("").graph
    lanes, edges = lanes_of(graph)
    assert max(*lanes.values(), *edges.values()) == 1
    beside = {graph.nodes[node].module for node, lane in lanes.items() if lane}
    assert beside == {"fc"} | {f"layer{layer}.0.downsample.{part}" for layer in (2, 3, 4) for part in (0, 1)}
