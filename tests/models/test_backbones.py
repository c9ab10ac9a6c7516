"""Backbones keep their library's names; one of the user's own needs an `fc`."""

import textwrap
from pathlib import Path
from typing import get_args

import pytest
import torch
import torchvision

from frostline.config.model import TorchvisionName
from frostline.freezing.selectors import stages_of
from frostline.models.backbones import build_backbone, classifier_of, inputs_of, last_layer, replace_classifier

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


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_network_has_torchvisions_state_dict_keys_and_published_size(name: str) -> None:
    with torch.device("meta"):
        network = build_backbone({"name": name})
        reference = getattr(torchvision.models, name)(weights=None)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in reference.state_dict().items()}
    parameters, features = PUBLISHED[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert last_layer(network.fc).in_features == features


def test_resnet18_has_62_tensors_from_conv1_to_fc() -> None:
    names = [name for name, _ in build_backbone({"name": "resnet18"}).named_parameters()]
    assert len(names) == 62
    assert (names[0], names[-2:]) == ("conv1.weight", ["fc.weight", "fc.bias"])


def test_the_schema_offers_exactly_torchvisions_networks() -> None:
    assert list(get_args(TorchvisionName)) == torchvision.models.list_models(module=torchvision.models)


# Of each family, the classifier that is replaced and the first and last stages before the head.
@pytest.mark.parametrize(
    ("name", "classifier", "first", "last"),
    [
        ("resnet18", "fc", ("conv1", "bn1", "relu", "maxpool"), "layer4"),
        ("convnext_tiny", "classifier.2", ("features.0",), "features.7"),
        ("densenet121", "classifier", ("features.conv0", "features.norm0"), "features.denseblock4"),
        ("mobilenet_v3_small", "classifier.3", ("features.0",), "classifier.0"),
        ("squeezenet1_1", "classifier.1", ("features.0",), "features.12"),
        ("vit_b_32", "heads.head", ("class_token", "encoder.pos_embedding"), "encoder.layers.encoder_layer_11"),
        ("timm/convnextv2_atto", "head.fc", ("stem",), "stages.3"),
        ("timm/vit_tiny_patch16_224", "head", ("cls_token", "pos_embed", "patch_embed", "pos_drop"), "blocks.11"),
        ("timm/resnet10t", "fc", ("conv1", "bn1", "act1"), "layer4"),
    ],
)  # fmt: skip
def test_each_librarys_network_has_its_stages_and_its_classifier(name, classifier, first, last) -> None:
    with torch.device("meta"):
        network = build_backbone({"name": name})
        assert classifier_of(network) == (classifier,)
        stages = stages_of(network)
        assert (next(iter(stages)), next(reversed(stages)), list(stages)[-2]) == ("stem", "head", last)
        assert stages["stem"][: len(first)] == first
        replace_classifier(network, (classifier,), classes=7)
    layer = network.get_submodule(classifier)
    assert (layer.out_features if isinstance(layer, torch.nn.Linear) else layer.out_channels) == 7
    assert stages_of(network) == stages


def test_a_network_is_built_for_the_datas_image_size_where_it_needs_one() -> None:
    assert inputs_of("resnet50").options(64) == {}
    for name in ("vit_b_32", "timm/vit_tiny_patch16_224"):
        with torch.device("meta"):
            network = build_backbone({"name": name, **inputs_of(name).options(64)})
            assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(ValueError, match=r"model: `vit_b_32` cannot be built with image_size=65: "):
        build_backbone({"name": "vit_b_32", "image_size": 65})


def test_a_timm_network_says_on_what_images_it_was_trained() -> None:
    inputs = inputs_of("timm/vit_small_patch14_dinov2.lvd142m")
    assert (inputs.image_size, inputs.mean) == (518, (0.485, 0.456, 0.406))
    assert inputs_of("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k").mean == (0.5, 0.5, 0.5)
    assert inputs_of("efficientnet_b4").image_size == 380


@pytest.mark.parametrize(
    ("name", "interpolation"),
    [
        ("resnet18", "bilinear"),
        ("swin_t", "bicubic"),
        ("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "bicubic"),
        (None, "bilinear"),
    ],
)
def test_a_network_says_how_its_images_were_resized(name: str | None, interpolation: str) -> None:
    assert inputs_of(name).interpolation == interpolation


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_22", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1"])
def test_an_unknown_name_of_timm_names_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match=r"timm has no network .* Did you mean .*`vit_tiny_patch16_224"):
        build_backbone({"name": name})


def test_further_keys_go_to_torchvisions_builder() -> None:
    with torch.device("meta"):
        network = build_backbone({"name": "resnet18", "num_classes": 7})
    assert network.fc.out_features == 7


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"^model: unknown network `resnet19`\. Did you mean `resnet18`.* The choices are: alexnet, "
    ):
        build_backbone({"name": "resnet19"})


def test_an_own_backbone_is_built_with_its_keys(my_module: None) -> None:
    network = build_backbone({"_target_": "my_backbones.Tiny", "width": 5})
    assert last_layer(network.fc).in_features == 5


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
        last_layer(network.fc)


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
