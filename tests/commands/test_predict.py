"""What predict does with its output."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from frostline.commands import predict
from frostline.commands.failures import USER_ERROR


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    classifier = SimpleNamespace(
        classes=["cat", "dog"],
        images={"classes": ["cat", "dog"], "image_size": 8, "resize": 1.0},
        probabilities=lambda images: torch.tensor([[0.25, 0.75]]).expand(len(images), 2),
    )
    monkeypatch.setattr(predict, "load_classifier", lambda *arguments, **options: classifier)
    keys = {"checkpoint": "x.ckpt", "trust_checkpoint": False, "top_k": 1, "batch_size": 2}
    return {
        **keys,
        "device": {"accelerator": "cpu", "threads": None, "devices": 1, "num_nodes": 1},
        "inputs": str(tmp_path),
    }


def test_an_image_of_the_inputs_is_no_output(
    settings: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.png"
    before = image.read_bytes()
    with pytest.raises(SystemExit) as end:
        predict.run({**settings, "output": str(image)})
    assert end.value.code == USER_ERROR
    assert image.read_bytes() == before
    said = f"frostline: output: `{image}` is one of the images, which it would replace. Name another file.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("output", "stream"), [("/dev/null", "err"), ("p.csv", "out")])
def test_a_pipe_gets_the_table_alone(
    output: str, stream: str, settings: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`output=/dev/stdout` is a pipe's other end: what is said of the table goes to stderr."""
    path = tmp_path / output
    predict.run({**settings, "output": str(path)})
    said = capsys.readouterr()
    assert getattr(said, stream) == f"1 images predicted: {path}\n"
    assert said.out + said.err == getattr(said, stream)
