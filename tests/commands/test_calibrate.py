"""`frostline calibrate`: what it stores, what it leaves as it is, and who uses it; in one process."""

import csv
import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from PIL import Image

from frostline.classifier import ImageClassifier
from frostline.commands.main import main
from frostline.data.datamodule import ImageDataModule
from frostline.data.digits import Digits
from frostline.models.network import build_network
from frostline.options import CheckpointOptions


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random ResNet-18 whose head fits 200 digits by least squares: right on most, not on all."""
    torch.manual_seed(0)
    data = ImageDataModule(source=Digits(), image_size=32)
    recipe = {"model": {"name": "resnet18"}, "head": {"name": "linear"}}
    options = CheckpointOptions(recipe=recipe, settings={"data": {"name": "digits"}})
    network: Any = build_network(**recipe, classes=len(data.classes))[0]
    classifier = ImageClassifier(network=network, data_spec=data.spec, checkpoint=options).eval()
    decoded, transform = data.images_and_transform("train")
    images = torch.stack([transform(decoded[index][0]) for index in range(200)])
    labels = torch.tensor([decoded[index][1] for index in range(200)])
    head, network.fc = network.fc, torch.nn.Identity()
    with torch.no_grad():
        features = classifier(images)
        within = features - features.mean(dim=0)
        wanted = torch.nn.functional.one_hot(labels, 10).float() - 0.1
        weight = torch.linalg.solve(within.T @ within + 0.1 * torch.eye(512), within.T @ wanted).T
        head.weight.copy_(5 * weight)
        head.bias.copy_(-5 * weight @ features.mean(dim=0))
    network.fc = head
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(classifier)
    path = tmp_path_factory.mktemp("made") / "digits.ckpt"
    trainer.save_checkpoint(path)
    return path


def evaluated(path: Path, output: Path, *words: str) -> dict[str, float]:
    main("evaluate", [f"checkpoint={path}", f"output={output}", "device=cpu", *words])
    results: dict[str, float] = json.loads(output.read_text())["results"]
    return results


def predicted(path: Path, folder: Path) -> dict[str, float]:
    """The probability of each class of a photo, most probable first."""
    table = folder / "predictions.csv"
    words = [f"checkpoint={path}", f"inputs={folder / 'photo.png'}", f"output={table}", "top_k=10", "device=cpu"]
    main("predict", words)
    [row] = csv.DictReader(table.read_text().splitlines())
    places = ["", *(f"_{place}" for place in range(2, 11))]
    return {row[f"class{place}"]: float(row[f"probability{place}"]) for place in places}


def scaled(made: Path, path: Path, factor: float) -> Path:
    """The checkpoint with logits so many times as large."""
    content = torch.load(made, weights_only=True)
    for name in ("fc.weight", "fc.bias"):
        content["state_dict"][name] *= factor
    torch.save(content, path)
    return path


def test_a_temperature_is_stored_in_the_checkpoint_and_predict_evaluate_and_export_use_it(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scaled(made, tmp_path / "digits.ckpt", 1)
    before = torch.load(path, weights_only=True)
    results = evaluated(path, tmp_path / "before.json")
    capsys.readouterr()
    main("calibrate", [f"checkpoint={path}", "device=cpu"])
    printed = capsys.readouterr().out

    after = torch.load(path, weights_only=True)
    calibration = after["frostline"].pop("calibration")
    assert after["state_dict"].keys() == before["state_dict"].keys()
    assert all(torch.equal(after["state_dict"].pop(name), value) for name, value in before.pop("state_dict").items())
    assert repr(after.pop("state_dict")) in ("{}", "OrderedDict()")
    assert after == before
    temperature, found = calibration["temperature"], calibration["results"]
    assert found["val"]["after"]["nll"] < found["val"]["before"]["nll"]
    assert found["test"]["before"]["calibration_error"] == pytest.approx(results["test/calibration_error"], abs=1e-6)
    assert "269 val images, fitted on them" in printed
    assert "test images, not seen by the fit" in printed
    assert f"temperature {temperature:.4g}, fitted on 269 val images; standard error " in printed

    calibrated = evaluated(path, tmp_path / "after.json")
    error = calibrated.pop("test/calibration_error")
    assert error == pytest.approx(found["test"]["after"]["calibration_error"], abs=1e-6)
    assert error != results.pop("test/calibration_error")
    assert calibrated == results
    assert f"calibration error with temperature {temperature:.4g}, fitted on 269 val images" in capsys.readouterr().out

    views = evaluated(path, tmp_path / "views.json", "test_time_augmentation=flip")
    assert views != {**calibrated, "test/calibration_error": error}
    assert "test-time augmentation flip: the mean of the probabilities of 2 views" in capsys.readouterr().out
    Image.new("RGB", (50, 40), (200, 90, 10)).save(tmp_path / "photo.png")
    plain, divided = (predicted(source, tmp_path) for source in (made, path))
    assert f"probabilities with temperature {temperature:.4g}" in capsys.readouterr().out
    roots = [probability ** (1 / temperature) for probability in plain.values()]
    assert list(divided) == list(plain)
    assert list(divided.values()) == pytest.approx([root / sum(roots) for root in roots], abs=1e-4)
    classifier = ImageClassifier.load_from_checkpoint(path).eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        logits = classifier(images)
        expected = (logits / temperature).softmax(dim=1)
        assert torch.equal(classifier.predict_step(images, 0)["probabilities"], expected)
    assert torch.equal(classifier.probabilities(images), expected)

    for name, within in (("torch_export", True), ("safetensors", False)):
        out = tmp_path / name
        main("export", [f"checkpoint={path}", f"format={name}", f"output={out}"])
        described = json.loads((out / "preprocessing.json").read_text())
        assert described["temperature"] == {"value": temperature, "within_the_model": within}
        assert ("divided by the temperature" in described["output"]["meaning"]) is not within
        assert f"With its temperature {temperature:.4g}" in (out / "MODEL_CARD.md").read_text()
    exported = torch.export.load(tmp_path / "torch_export/model.pt2").module()
    assert torch.allclose(exported(images), logits / temperature, atol=1e-5)


def test_three_times_the_logits_have_three_times_the_temperature_and_the_worst_ones_have_none(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    temperatures = []
    for factor in (1, 3):
        path = scaled(made, tmp_path / f"{factor}.ckpt", factor)
        main("calibrate", [f"checkpoint={path}", "device=cpu"])
        temperatures.append(ImageClassifier.load_from_checkpoint(path).temperature)
    assert temperatures[1] == pytest.approx(3 * temperatures[0], rel=1e-4)
    path = scaled(made, tmp_path / "worst.ckpt", -1)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main("calibrate", [f"checkpoint={path}", "device=cpu"])
    assert ended.value.code == 2
    assert "the logits say no more than chance" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1.ckpt", "3.ckpt", "worst.ckpt"]
