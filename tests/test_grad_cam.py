"""Grad-CAM against heat maps known by hand, on frozen layers, and refused where there is no feature map."""

import pytest
import torch
import torchvision
from torch import nn

from frostline.grad_cam import heat_map, last_feature_map


class ByHand(nn.Module):
    """Two channels that are the image's first two, averaged; class 0 is twice the first, class 1 minus the second."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, :, None, None])
            self.head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, -1.0]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


@pytest.mark.parametrize("frozen", [False, True])
def test_the_heat_is_the_weighted_feature_map_without_what_speaks_against(frozen: bool) -> None:
    network = ByHand().requires_grad_(not frozen).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.rand(2, 3, 4, 4)
    layer = last_feature_map(network, images[:1])
    assert (layer.name, layer.shape) == ("features", (2, 4, 4))
    heat = heat_map(network, images, 0, layer=layer.name)
    for found, image in zip(heat, images, strict=True):
        assert torch.allclose(found, image[0] / image[0].max(), atol=1e-6)
    assert torch.equal(heat_map(network, images, 1, layer=layer.name), torch.zeros(2, 4, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad is not frozen for parameter in network.parameters())
    assert network.training


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (512, 2, 2)),
        ("mobilenet_v3_small", (576, 2, 2)),
        ("densenet121", (1024, 2, 2)),
        ("convnext_tiny", (768, 2, 2)),
        ("googlenet", (1024, 2, 2)),
        ("squeezenet1_1", (1000, 3, 3)),
    ],
)
def test_the_last_map_of_convolutional_networks_is_found(name: str, shape: tuple[int, int, int]) -> None:
    network = torchvision.models.get_model(
        name, weights=None, **({"init_weights": False} if name == "googlenet" else {})
    ).requires_grad_(False)
    image = torch.rand(1, 3, 64, 64)
    layer = last_feature_map(network, image)
    assert layer.shape == shape
    [heat] = heat_map(network, image, 3, layer=layer.name)
    assert heat.shape == (64, 64)
    assert 0 <= heat.min() <= heat.max() <= 1


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
def test_a_transformer_is_refused(name: str) -> None:
    side = 224 if name == "vit_b_32" else 64
    network = torchvision.models.get_model(name, weights=None)
    with pytest.raises(ValueError, match="Grad-CAM needs a convolutional network"):
        last_feature_map(network, torch.rand(1, 3, side, side))
