import pytest
import torch
from torch import nn
from torchvision.models import densenet121

from frostline.autograd.drawing import draw, draw_operations

from .networks import IMAGES, observed
from .pictures import canvas, faults, labels


@pytest.mark.parametrize("trainable", [("fc",), ("layer4", "fc"), ("layer2",), ("",)])
def test_no_label_of_a_resnet18_overlaps_and_it_fits_1280_pixels(trainable):
    svg = draw_operations(observed(*trainable).graph, title="ResNet-18").svg
    assert faults(svg) == []
    assert canvas(svg).right <= 1280
    assert min(float(size) for size in _sizes(svg)) >= 11


@pytest.mark.parametrize("trainable", [("fc",), ("layer4", "fc"), ("",)])
def test_every_node_is_drawn(trainable):
    graph = observed(*trainable).graph
    texts = [label.text for label in labels(draw_operations(graph).svg)]
    for node in graph.leaves:
        assert any(text.startswith(f"{node.parameter} (") for text in texts), node
    operations = [node.operation for node in graph.nodes if not node.is_leaf]
    for operation in set(operations):
        assert texts.count(operation) == operations.count(operation)


def test_what_is_frozen_and_what_is_not_reached_stands_below():
    network = nn.ModuleDict({"frozen": nn.Linear(2, 2), "used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    network["frozen"].requires_grad_(False)
    svg = draw(network["used"](network["frozen"](torch.rand(1, 2))).sum(), network=network).svg
    texts = [label.text for label in labels(svg)]
    assert "Below the frost line: 2 parameter tensors are in no graph and get no gradient" in texts
    assert "frozen (2)" in texts
    assert "2 parameter tensors are trainable and yet not reached: the loss does not depend on them" in texts
    assert "unused (2)" in texts
    assert faults(svg) == []


def test_a_leaf_read_by_several_operations_stands_beside_each():
    x = torch.rand(3, requires_grad=True)
    svg = draw(x.sin() + x.cos() * (x * x), names={"x": x}).svg
    texts = [label.text for label in labels(svg)]
    assert texts.count("x (3)") == 2
    assert texts.count("x (3) used 2 times") == 1
    assert faults(svg) == []


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
    assert faults(draw((output[0] if isinstance(output, tuple) else output).sum(), network=network).svg) == []


def _sizes(svg: str) -> list[str]:
    return [part.split('"')[0] for part in svg.split('font-size="')[1:]]
