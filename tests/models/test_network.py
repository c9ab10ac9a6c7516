"""A backbone, its weights and its head, put together."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from frostline.models.network import build_network

LINEAR = {"name": "linear"}


def test_the_new_head_is_sized_from_the_data() -> None:
    network, loaded = build_network(model={"name": "resnet18"}, head=LINEAR, classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_181_642
    assert len(list(network.parameters())) == 62
    assert network.fc.weight.shape == (10, 512)
    assert loaded.source == "none (random)"
    assert set(loaded.initialised) == set(network.state_dict())


def test_trained_weights_load_into_plain_torchvision() -> None:
    network, _ = build_network(model={"name": "resnet18"}, head=LINEAR, classes=10)
    plain = torchvision.models.resnet18(num_classes=10)
    plain.load_state_dict(network.state_dict(), strict=True)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain.eval()(images), network.eval()(images))


def test_an_mlp_head_takes_the_backbones_features() -> None:
    network, _ = build_network(
        model={"name": "resnet18"}, head={"name": "mlp", "hidden": [16], "dropout": 0.0}, classes=4
    )
    assert network.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 4)


def test_weights_of_another_class_count_leave_the_new_head(tmp_path: Path) -> None:
    file = tmp_path / "thousand.pth"
    trained = torchvision.models.resnet18()
    torch.save(trained.state_dict(), file)
    network, loaded = build_network(model={"name": "resnet18"}, head=LINEAR, classes=10, weights=str(file))
    assert loaded.skipped == loaded.initialised == ("fc.weight", "fc.bias")
    assert len(loaded.loaded) == 120
    assert torch.equal(network.layer4[1].conv2.weight, trained.layer4[1].conv2.weight)
    assert network.fc.out_features == 10


def test_weights_of_the_same_class_count_keep_the_trained_head(tmp_path: Path) -> None:
    file = tmp_path / "ten.pth"
    trained = torchvision.models.resnet18(num_classes=10)
    torch.save(trained.state_dict(), file)
    network, loaded = build_network(model={"name": "resnet18"}, head=LINEAR, classes=10, weights=str(file))
    assert loaded.skipped == loaded.initialised == ()
    assert torch.equal(network.fc.weight, trained.fc.weight)


def test_head_pretrained_keeps_the_loaded_fc(tmp_path: Path) -> None:
    file = tmp_path / "seven.pth"
    trained = torchvision.models.resnet18(num_classes=7)
    torch.save(trained.state_dict(), file)
    head = {"name": "pretrained"}
    network, loaded = build_network(model={"name": "resnet18"}, head=head, classes=7, weights=str(file))
    assert torch.equal(network.fc.weight, trained.fc.weight)
    assert loaded.initialised == ()


def test_head_pretrained_refuses_another_class_count(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classifier of 1000 classes, but the data has 10.*Use head=linear"):
        build_network(model={"name": "resnet18"}, head={"name": "pretrained"}, classes=10)


def test_head_pretrained_needs_a_linear_classifier_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "no_fc.pth"
    backbone = torchvision.models.resnet18()
    backbone.fc = nn.Identity()
    torch.save(backbone.state_dict(), file)
    with pytest.raises(ValueError, match=r"holds no linear classifier \(fc\.weight\)"):
        build_network(model={"name": "resnet18"}, head={"name": "pretrained"}, classes=10, weights=str(file))


def test_a_head_for_other_classes_of_the_same_number_is_new(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "w.pth")
    weights = str(tmp_path / "w.pth")
    _, loaded = build_network(model={"name": "resnet18"}, head=LINEAR, classes=3, weights=weights, same_classes=False)
    assert loaded.initialised == loaded.skipped == ("fc.weight", "fc.bias")
    with pytest.raises(ValueError, match=r"head=pretrained: the classifier in `.*w\.pth` is for other classes"):
        build_network(
            model={"name": "resnet18"}, head={"name": "pretrained"}, classes=3, weights=weights, same_classes=False
        )
