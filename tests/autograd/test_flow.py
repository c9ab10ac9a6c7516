import math

import pytest
import torch
from torch import nn

from frostline.autograd.flow import Flow, Measurement, Moments, by_stage, combine

from .networks import IMAGES, cross_entropy, resnet


class Pair(nn.Module):
    """Two parameters whose gradients one can set."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.b = nn.Parameter(torch.tensor([[12.0]]))


def test_every_figure_of_a_gradient_is_the_one_worked_out_by_hand():
    network = Pair()
    network.a.grad = torch.tensor([0.0, -0.5])
    network.b.grad = torch.tensor([[2.0]])
    measurement = Measurement(network)
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    a, b = measurement.finish(after_step=True)
    assert (a.norm, a.mean, a.largest, a.zero_share) == (0.5, 0.25, 0.5, 0.5)
    assert a.update_ratio == pytest.approx(0.05 / 5, rel=1e-4)
    assert (b.norm, b.mean, b.largest, b.zero_share) == (2, 2, 2, 0)
    assert b.update_ratio == pytest.approx(0.2 / 12, rel=1e-4)
    both = combine("both", [a, b])
    assert both.norm == pytest.approx(math.sqrt(4.25))
    assert both.mean == pytest.approx(2.5 / 3)
    assert (both.largest, both.tensors, both.entries) == (2, 2, 3)
    assert both.zero_share == pytest.approx(1 / 3)
    assert both.update_ratio == pytest.approx(math.sqrt(0.05**2 + 0.2**2) / 13, rel=1e-4)


def test_the_update_is_the_optimizers_own_whatever_it_does():
    network = Pair()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    measurement = Measurement(network)
    torch.optim.Adam(network.parameters(), lr=0.01).step()  # its first step is lr · sign(g)
    a, _ = measurement.finish(after_step=True)
    assert a.update_ratio == pytest.approx(0.01 * math.sqrt(2) / 5, rel=1e-4)


def test_noise_is_the_spread_of_the_batches_over_their_mean():
    network, moments = Pair(), Moments()
    gradients = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])
    for gradient in gradients:
        network.a.grad = gradient.clone()
        moments.add(network)
    a, b = Measurement(network, moments=moments).finish(after_step=False)
    assert torch.equal(moments.mean("a"), gradients.mean(0))
    spread = ((gradients - gradients.mean(0)) ** 2).sum() / 2
    assert a.noise == pytest.approx(float((spread / gradients.mean(0).square().sum()).sqrt()))
    assert (b.noise, b.norm, b.receiving) == (None, None, 0)


def test_equal_batches_have_no_noise_and_one_batch_has_none_to_tell():
    network, moments = Pair(), Moments()
    network.a.grad = torch.tensor([1.0, 2.0])
    moments.add(network)
    assert Measurement(network, moments=moments).finish(after_step=False)[0].noise is None
    moments.add(network)
    assert Measurement(network, moments=moments).finish(after_step=False)[0].noise == 0


def test_stages_gather_their_parameters_and_frozen_ones_have_nothing():
    network = resnet("layer4", "fc")
    cross_entropy(network(IMAGES)).backward()
    flows = Measurement(network).finish(after_step=False)
    assert [flow.name for flow in flows] == [name for name, _ in network.named_parameters()]
    stages = {flow.name: flow for flow in by_stage(network, flows)}
    assert list(stages) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert [(flow.receiving, flow.tensors) for flow in stages.values()] == [
        (0, 3), (0, 12), (0, 15), (0, 15), (15, 15), (2, 2),
    ]  # fmt: skip
    assert stages["layer3"].scalars() == {}
    gradients = [parameter.grad for name, parameter in network.named_parameters() if name.startswith("layer4")]
    exact = float(torch.cat([gradient.double().flatten() for gradient in gradients]).norm())
    assert stages["layer4"].norm == pytest.approx(exact, rel=1e-6)
    assert set(stages["head"].scalars()) == {"norm", "mean", "maximum", "zeros"}


def test_half_precision_gradients_do_not_overflow():
    network = Pair().half()
    network.a.grad = torch.tensor([300.0, 400.0], dtype=torch.float16)  # 400² is beyond float16's 65,504
    assert Measurement(network).finish(after_step=False)[0].norm == 500


def test_sparse_gradients_are_read():
    network = nn.Embedding(3, 2, sparse=True)
    network(torch.tensor([1, 1])).sum().backward()
    [flow] = Measurement(network).finish(after_step=False)
    assert (flow.norm, flow.zero_share) == (pytest.approx(math.sqrt(8)), pytest.approx(4 / 6))


def test_nan_in_one_parameter_is_not_hidden_by_another():
    flows = [Flow("a", 1, 1, 1, 0, 1, math.nan, math.nan, math.nan), Flow("b", 1, 1, 1, 0, 1, 1.0, 1.0, 1.0)]
    for order in (flows, flows[::-1]):
        combined = combine("both", order)
        assert math.isnan(combined.norm)
        assert math.isnan(combined.largest)


def test_a_frozen_parameter_with_a_gradient_is_counted():
    network = Pair()
    network.a.grad = torch.ones(2)
    network.a.requires_grad_(False)
    a, b = Measurement(network).finish(after_step=False)
    assert (a.frozen_receiving, a.trainable, b.receiving, b.trainable) == (1, 0, 0, 1)
