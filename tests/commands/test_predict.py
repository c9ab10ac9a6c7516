"""What predict does with its output."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tests.configs import config

from frostline.commands import predict
from frostline.commands.failures import USER_ERROR
from frostline.data.spec import DataSpec


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    classifier = SimpleNamespace(
        classes=["cat", "dog"],
        calibration=None,
        data_spec=DataSpec(classes=["cat", "dog"], mean=[0.5] * 3, std=[0.5] * 3, image_size=8),
        probabilities=lambda images: torch.tensor([[0.25, 0.75]]).expand(len(images), 2),
    )
    monkeypatch.setattr(predict.ImageClassifier, "load_from_checkpoint", lambda *_, **__: classifier)
    return tmp_path


def run(inputs: Path, output: Path) -> None:
    words = ("checkpoint=x.ckpt", "top_k=1", "batch_size=2", "device=cpu", f"inputs={inputs}", f"output={output}")
    predict.run(config(*words, command="predict"))


def test_an_image_of_the_inputs_is_no_output(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = inputs / "a.png"
    before = image.read_bytes()
    with pytest.raises(SystemExit) as end:
        run(inputs, image)
    assert end.value.code == USER_ERROR
    assert image.read_bytes() == before
    text = f"frostline: output: `{image}` is one of the images, which it would replace. Name another file.\n"
    assert capsys.readouterr().err == text


@pytest.mark.parametrize(("output", "stream"), [("/dev/null", "err"), ("p.csv", "out")])
def test_a_pipe_gets_the_table_alone(
    output: str, stream: str, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`output=/dev/stdout` is a pipe's other end: messages about the table go to stderr."""
    path = inputs / output
    run(inputs, path)
    text = capsys.readouterr()
    assert getattr(text, stream) == f"1 images predicted: {path}\n"
    assert text.out + text.err == getattr(text, stream)
