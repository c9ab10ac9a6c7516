"""The self-check after a backward."""

import pytest
import torch
from freezing.tiny import seeded_net

from frostline.freezing import FreezePolicy, apply_phase
from frostline.freezing.gradients import GradientCheckFailed, check_gradients


def ready():
    net = seeded_net()
    phase = FreezePolicy.static("conv2", "head").resolve(net).phases[0]
    apply_phase(net, phase)
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    return net, phase


def test_a_sound_backward_passes():
    check_gradients(*ready())


def test_a_missing_gradient_is_named():
    net, phase = ready()
    net.conv2.bias.grad = None
    with pytest.raises(GradientCheckFailed, match=r"Phase `static`: conv2.bias: in training, but without"):
        check_gradients(net, phase)
    check_gradients(net, phase, allow_unused=["conv2.bias"])


def test_a_gradient_where_none_should_be_is_named():
    net, phase = ready()
    net.bn1.weight.grad = torch.zeros(4)
    with pytest.raises(GradientCheckFailed, match=r"bn1.weight: frozen, but with a gradient"):
        check_gradients(net, phase)
