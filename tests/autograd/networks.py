"""A ResNet-18 with ten classes and a choice of what trains, and its loss on two tiny images."""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from frostline.autograd.observe import Observation, observe

IMAGES, TARGETS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 7])


def resnet(*trainable: str) -> nn.Module:
    """Parameters whose names start with one of these train; "" is all of them."""
    torch.manual_seed(0)
    network = resnet18(weights=None, num_classes=10)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(trainable) if trainable else False)
    return network


def cross_entropy(output: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, TARGETS)


def observed(*trainable: str) -> Observation:
    return observe(resnet(*trainable), IMAGES, cross_entropy)
