"""frostline export: a folder that is whole or not there, and every mistake in one message before the work."""

import json

import lightning
import pytest
from PIL import Image
from tests.configs import config

from frostline.classifier import ImageClassifier
from frostline.commands import export
from frostline.commands.failures import USER_ERROR
from frostline.config.commands import COMMANDS
from frostline.config.validation import ConfigError, validate
from frostline.data.datamodule import ImageDataModule
from frostline.data.digits import Digits
from frostline.models.network import build_network
from frostline.options import CheckpointOptions


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    data = ImageDataModule(source=Digits(), image_size=32)
    recipe = {"model": {"name": "resnet18"}, "head": {"name": "linear"}}
    options = CheckpointOptions(recipe=recipe, settings={"data": {"name": "digits"}})
    network = build_network(**recipe, classes=len(data.classes))[0]
    classifier = ImageClassifier(network=network, data_spec=data.spec, checkpoint=options)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(classifier)
    path = tmp_path_factory.mktemp("made") / "digits.ckpt"
    trainer.save_checkpoint(path)
    return path


def run(checkpoint, *words):
    export.run(config(f"checkpoint={checkpoint}", *words, command="export"))


def mistake(capsys, checkpoint, *words):
    with pytest.raises(SystemExit) as end:
        run(checkpoint, *words)
    assert end.value.code == USER_ERROR
    return capsys.readouterr().err


def test_an_export_holds_model_description_and_card_and_is_compared_on_the_data_of_the_training(
    checkpoint, tmp_path, capsys
):
    out = tmp_path / "out"
    run(checkpoint, "format=safetensors", f"output={out}")
    printed = capsys.readouterr().out
    assert "compared on 16 test images: the same class on all, largest difference of a logit 0\n" in printed
    assert "one image: " in printed
    assert sorted(path.name for path in out.iterdir()) == ["MODEL_CARD.md", "model.safetensors", "preprocessing.json"]
    described = json.loads((out / "preprocessing.json").read_text())
    assert described["classes"] == [str(digit) for digit in range(10)]
    assert described["network"]["model"] == {"name": "resnet18"}
    assert "No test of this checkpoint is recorded." in (out / "MODEL_CARD.md").read_text()
    assert "is there already. Name another folder" in mistake(capsys, checkpoint, "format=safetensors", f"output={out}")


def test_mistakes_write_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    out = f"output={tmp_path / 'out'}"
    broken = mistake(capsys, checkpoint, "format=safetensors", out, f"inputs={tmp_path / 'broken.png'}")
    assert "inputs: none of the images can be read" in broken
    assert "no images there" in mistake(capsys, checkpoint, "format=safetensors", out, f"inputs={tmp_path / 'empty'}")
    monkeypatch.setattr(export, "trained_on", lambda *_, **__: (_ for _ in ()).throw(ValueError("no such folder")))
    out_of_reach = mistake(capsys, checkpoint, "format=safetensors", out)
    assert "those of its training are out of reach (no such folder). Name some, as inputs=photos" in out_of_reach
    monkeypatch.setattr(export, "load", lambda name, path, model: lambda images: -model(images))
    Image.new("RGB", (40, 30), (200, 90, 10)).save(tmp_path / "photo.jpg")
    other = mistake(capsys, checkpoint, "format=safetensors", out, f"inputs={tmp_path / 'photo.jpg'}")
    assert "the exported model gives another class than the network on 1 of 1 images" in other
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_an_unknown_format_is_answered_with_the_choices(checkpoint):
    with pytest.raises(ConfigError) as error:
        validate(COMMANDS["export"], {"checkpoint": str(checkpoint), "format": "tflite"})
    [problem] = error.value.problems
    assert "must be one of onnx, torch_export, openvino, safetensors, not `tflite`" in problem
