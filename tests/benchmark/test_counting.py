"""Operations and bytes of a step, against counts made by hand."""

import pytest
import torch
import torch.nn.functional as F
from scripts.benchmark.counting import Counted, count
from scripts.benchmark.gpu import count_all
from torch import nn


def test_a_matrix_product_reads_two_matrices_and_writes_one():
    def prepare():
        left, right = torch.zeros(6, 4), torch.zeros(4, 5)
        return lambda: left @ right

    assert count(prepare) == Counted(operations=2 * 6 * 4 * 5, bytes=4 * (6 * 4 + 4 * 5 + 6 * 5))


def test_views_and_allocations_move_nothing_and_in_place_reads_and_writes():
    def prepare():
        values = torch.zeros(10, dtype=torch.bfloat16)

        def step():
            torch.empty(1000)
            values.view(2, 5).t()
            values.relu_()

        return step

    assert count(prepare) == Counted(operations=0, bytes=2 * 2 * 10)


def test_an_optimizer_that_returns_nothing_is_seen_to_write():
    def prepare():
        weight = nn.Parameter(torch.zeros(10))
        weight.grad = torch.zeros(10)
        return torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True).step

    # Weight, gradient and momentum, each read and, by the schema, written, in float32.
    assert count(prepare) == Counted(operations=0, bytes=4 * 10 * 3 * 2)


def test_a_convolution_and_its_backward():
    def prepare():
        weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
        images = torch.zeros(2, 3, 10, 10)

        def step():
            weight.grad = None
            F.conv2d(images, weight, padding=1).sum().backward()

        return step

    forward = 2 * (2 * 8 * 10 * 10) * (3 * 3 * 3)
    # The images need no gradient, so that backward is one more of the same size.
    assert count(prepare).operations == 2 * forward


@pytest.fixture(scope="module")
def costs() -> dict[str, dict[str, float]]:
    names = ("full", "layer3", "layer4", "head", "cached")
    return {name: count_all(name, batch_size=32, image_size=224) for name in names}


def test_resnet18_takes_the_operations_that_the_literature_says(costs):
    # 1.81 billion multiplications and additions; torchvision names 1.814 for 1,000 classes, here there are 10.
    assert costs["head"]["operations"] == pytest.approx(2 * 1.814e9 - 2 * 512 * 990, rel=1e-3)
    # Backward is twice forward, but the images need no gradient: the first convolution has 118 million.
    assert costs["full"]["operations"] == pytest.approx(3 * 3.627e9 - 2 * 118.0e6, rel=1e-3)


def test_what_is_frozen_is_not_counted_backward(costs):
    names = ("full", "layer3", "layer4", "head", "cached")
    for measure in ("operations", "bytes"):
        values = [costs[name][measure] for name in names]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(names)
    # From features: a product forward, and one for the gradient of the weights.
    assert costs["cached"]["operations"] == 2 * 2 * 512 * 10


def test_weights_weigh_less_in_a_larger_batch(costs):
    assert count_all("full", batch_size=256, image_size=224)["bytes"] < costs["full"]["bytes"]
    assert count_all("full", batch_size=256, image_size=224)["operations"] == costs["full"]["operations"]
