"""Backbones keep torchvision's names; one of the user's own needs an `fc`."""

import textwrap
from pathlib import Path
from typing import get_args

import pytest
import torch
import torchvision

from frostline.config.model import ResNetName
from frostline.models.resnet import RESNETS, build_backbone, features_of

# Parameters with 1,000 classes, as torchvision's documentation gives them, and the features that `fc` takes.
PUBLISHED = {
    "resnet18": (11_689_512, 512),
    "resnet34": (21_797_672, 512),
    "resnet50": (25_557_032, 2048),
    "resnet101": (44_549_160, 2048),
    "resnet152": (60_192_808, 2048),
    "resnext50_32x4d": (25_028_904, 2048),
    "resnext101_32x8d": (88_791_336, 2048),
    "resnext101_64x4d": (83_455_272, 2048),
    "wide_resnet50_2": (68_883_240, 2048),
    "wide_resnet101_2": (126_886_696, 2048),
}


@pytest.mark.parametrize("name", RESNETS)
def test_every_network_has_torchvisions_state_dict_keys_and_published_size(name: str) -> None:
    with torch.device("meta"):
        network = build_backbone({"name": name})
        reference = getattr(torchvision.models, name)(weights=None)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in reference.state_dict().items()}
    parameters, features = PUBLISHED[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert features_of(network) == features


def test_resnet18_has_62_tensors_from_conv1_to_fc() -> None:
    names = [name for name, _ in build_backbone({"name": "resnet18"}).named_parameters()]
    assert len(names) == 62
    assert (names[0], names[-2:]) == ("conv1.weight", ["fc.weight", "fc.bias"])


def test_the_schema_offers_exactly_the_networks_that_can_be_built() -> None:
    assert get_args(ResNetName) == RESNETS == tuple(PUBLISHED)


def test_further_keys_go_to_torchvisions_builder() -> None:
    with torch.device("meta"):
        network = build_backbone({"name": "resnet18", "num_classes": 7})
    assert network.fc.out_features == 7


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"^model: unknown network `resnet19`\. The choices are: resnet18, "):
        build_backbone({"name": "resnet19"})


def test_an_own_backbone_is_built_with_its_keys(my_module: None) -> None:
    network = build_backbone({"_target_": "my_backbones.Tiny", "width": 5})
    assert features_of(network) == 5


def test_an_own_backbones_unknown_key_is_refused(my_module: None) -> None:
    with pytest.raises(ValueError, match=r"model\.widht: `Tiny` takes no such argument\. Did you mean `width`\?"):
        build_backbone({"_target_": "my_backbones.Tiny", "widht": 5, "width": 5})


def test_an_own_backbone_without_fc_is_refused(my_module: None) -> None:
    with pytest.raises(ValueError, match=r"`my_backbones\.NoClassifier` has no module `fc`"):
        build_backbone({"_target_": "my_backbones.NoClassifier"})


def test_an_fc_without_a_linear_layer_has_no_size() -> None:
    network = torch.nn.Module()
    network.fc = torch.nn.Identity()
    with pytest.raises(ValueError, match="holds no linear layer"):
        features_of(network)


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's file with backbones of their own, where Python finds it."""
    (tmp_path / "my_backbones.py").write_text(
        textwrap.dedent(
            """
            from torch import nn

            class Tiny(nn.Module):
                def __init__(self, *, width):
                    super().__init__()
                    self.fc = nn.Linear(width, 3)

            class NoClassifier(nn.Module):
                pass
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_backbones", raising=False)
