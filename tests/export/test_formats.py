"""Each format holds the network: the same logits for any number of images, and an error where it does not."""

import json

import pytest
import torch
from torch import nn

from frostline.data.spec import DataSpec
from frostline.export import formats
from frostline.export.comparison import compare
from frostline.export.description import describe
from frostline.export.format_names import FILES, FormatName, check_installed
from frostline.export.formats import PreparedNetwork, load, write

SPEC = DataSpec(classes=["ice", "fire", "rock"], mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1], image_size=16, resize=1.5)
FORMATS = list(FILES)


@pytest.fixture
def model() -> PreparedNetwork:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    network = nn.Sequential(*layers)
    network(torch.randn(8, 3, 16, 16))  # moves the statistics, which have to be in the file
    return PreparedNetwork(network, SPEC).eval()


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_gives_the_networks_logits_for_any_number_of_images(name: FormatName, model, tmp_path) -> None:
    images = torch.rand(5, 3, 16, 16)
    path = tmp_path / FILES[name]
    write(name, model, images[:2], path)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    exported = load(name, path, model)
    found = compare(model, exported, images)
    assert found.images == 5
    assert found.largest_difference < 1e-5
    assert min(found.milliseconds, found.milliseconds_before) > 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    with torch.no_grad():  # the file has weights of its own: others do not reach it
        model.network[-1].weight.neg_()
    assert not torch.allclose(exported(images), model(images), atol=1e-3)


def test_another_class_on_one_image_is_an_error_and_so_is_nan(model) -> None:
    images = torch.rand(4, 3, 16, 16)
    with pytest.raises(ValueError, match=r"gives another class than the network on \d of 4 images"):
        compare(model, lambda given: -model(given), images)
    with pytest.raises(ValueError, match="gives another class"):
        compare(model, lambda given: model(given) * torch.nan, images)


def test_a_network_that_a_format_cannot_hold_is_named_in_one_line(tmp_path) -> None:
    class Undecided(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3)) if images.sum() > 0 else images.amax(dim=(2, 3))

    model = PreparedNetwork(Undecided(), SPEC).eval()
    with pytest.raises(ValueError, match=r"^format=torch_export: this network cannot be written in it \(.*\)$"):
        write("torch_export", model, torch.rand(2, 3, 16, 16), tmp_path / "model.pt2")


def test_what_a_format_needs_is_named_before_the_work(monkeypatch) -> None:
    monkeypatch.setattr("frostline.export.format_names.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"onnxscript and onnxruntime are not installed\. Type pip install 'frostline"):
        check_installed("onnx")
    check_installed("torch_export")
    check_installed("safetensors")


def test_every_format_has_a_writer_and_a_loader() -> None:
    assert formats._WRITERS.keys() == formats._LOADERS.keys() == FILES.keys()


def test_the_description_says_how_an_image_becomes_the_input() -> None:
    described = {name: describe(SPEC, name=name, recipe={"model": {"name": "resnet18"}}) for name in FORMATS}
    assert json.loads(json.dumps(described)) == described
    for name, values in described.items():
        assert values["classes"] == ["ice", "fire", "rock"]
        assert values["resize"] == {
            "shorter_side": 24,
            "interpolation": "bilinear",
            "antialias": True,
            "centre_crop": 16,
        }
        assert values["normalisation"]["within_the_model"] is (name != "safetensors")
        assert any("subtract mean" in step for step in values["steps"]) is (name == "safetensors")
