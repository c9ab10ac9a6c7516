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
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/a.png")
    classifier = SimpleNamespace(
        classes=["cat", "dog"],
        calibration=None,
        data_spec=DataSpec(classes=["cat", "dog"], mean=[0.5] * 3, std=[0.5] * 3, image_size=8),
        probabilities=lambda images: torch.tensor([[0.25, 0.75]]).expand(len(images), 2),
    )
    monkeypatch.setattr(predict.ImageClassifier, "load_from_checkpoint", lambda *_, **__: classifier)
    return tmp_path / "photos"


def run(inputs: Path, output: Path) -> None:
    words = ("checkpoint=x.ckpt", "top_k=2", "batch_size=2", "device=cpu", f"inputs={inputs}", f"output={output}")
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
def test_a_single_images_answer_goes_beside_the_table(
    output: str, stream: str, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`output=/dev/stdout` is a pipe's other end: messages about the table go to stderr."""
    path = inputs.parent / output
    run(inputs, path)
    text = capsys.readouterr()
    expected = f"{inputs}/a.png: dog 75.0 %, cat 25.0 %\n1 image predicted: {path}\n"
    assert getattr(text, stream) == expected
    assert text.out + text.err == expected


def test_several_images_are_counted_by_class_and_what_is_no_image_is_named(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = inputs.parent / "p.csv"
    for name in ("b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(inputs / name)
    (inputs / "c.png").write_bytes(b"broken")
    (inputs / "notes.txt").write_text("no image")
    run(inputs, path)
    assert capsys.readouterr().out == (
        f"left out: 1 .txt files ({inputs}/notes.txt)\n"
        "predicted class  images\n"
        "dog                   2\n"
        f"2 images predicted; 1 could not be read (see the column error): {path}\n"
    )


def test_a_single_image_that_cannot_be_read_says_why(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inputs / "a.png").write_bytes(b"")
    run(inputs, inputs.parent / "p.csv")
    assert capsys.readouterr().out.startswith(f"{inputs}/a.png: empty file (0 bytes)\n0 images predicted; 1 could not")
