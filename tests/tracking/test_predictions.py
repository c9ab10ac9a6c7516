"""Predictions for files, broken ones among them."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from frostline.data.spec import DataSpec
from frostline.storage.names import cell_text, file_name
from frostline.tracking.predictions import Prediction, predict_files, write_predictions

SPEC = DataSpec(classes=["dark", "grey", "bright"], mean=[0.0] * 3, std=[1.0] * 3, image_size=8)


def by_brightness(images: Tensor) -> Tensor:
    """Sure of dark where an image is black, of bright where it is white; half as sure of grey as of the rest."""
    assert images.dtype == torch.uint8
    assert images.shape[1:] == (3, 8, 8)
    bright = images.float().mean(dim=(1, 2, 3)) / 255
    return torch.stack([(1 - bright) * 0.75, torch.full_like(bright, 0.25), bright * 0.75], dim=1)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Black, broken, white, a text, and a grey image, in this order."""
    for name, value in (("a.png", 0), ("c.png", 255), ("e.png", 51)):
        Image.new("RGB", (12, 9), (value, value, value)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (tmp_path / "d.png").write_text("no image")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_every_file_gets_its_prediction_in_order(paths: list[Path], batch_size: int) -> None:
    predictions = list(predict_files(by_brightness, paths, spec=SPEC, batch_size=batch_size))
    assert [prediction.path for prediction in predictions] == paths
    tops = [[(name, round(p, 4)) for name, p in prediction.top] for prediction in predictions]
    assert tops == [
        [("dark", 0.75), ("grey", 0.25), ("bright", 0.0)],
        [],
        [("bright", 0.75), ("grey", 0.25), ("dark", 0.0)],
        [],
        [("dark", 0.6), ("grey", 0.25), ("bright", 0.15)],
    ]
    assert [bool(prediction.error) for prediction in predictions] == [False, True, False, True, False]


def test_a_batch_of_broken_files_asks_the_network_nothing(paths: list[Path]) -> None:
    def never(_: Tensor) -> Tensor:
        raise AssertionError("asked")

    [prediction] = predict_files(never, paths[1:2], spec=SPEC)
    assert prediction.error


def test_top_k_beyond_the_classes_is_all_classes(paths: list[Path]) -> None:
    [prediction] = predict_files(by_brightness, paths[:1], spec=SPEC, top_k=10)
    assert len(prediction.top) == 3


def written(output: Path) -> list[list[str]]:
    with output.open(newline="") as file:
        return list(csv.reader(file))


def test_the_csv_has_a_row_for_each_image_and_the_reason_for_a_broken_one(paths: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "new" / "predictions.csv"
    predictions = predict_files(by_brightness, paths, spec=SPEC, top_k=2)
    assert write_predictions(predictions, output, top_k=2) == {"dark": 2, "bright": 1, "": 2}
    header, *rows = written(output)
    assert header == ["path", "class", "probability", "class_2", "probability_2", "error"]
    assert rows[0] == [str(paths[0]), "dark", "0.750000", "grey", "0.250000", ""]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    for row in (rows[1], rows[3]):
        assert row[1:5] == [""] * 4
        assert row[5]
    assert list(output.parent.iterdir()) == [output]


def test_a_csv_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    output = tmp_path / "predictions.csv"
    output.write_text("old")

    def interrupted() -> Iterator[Prediction]:
        yield Prediction(path=Path("a.png"), top=(("dark", 1.0),))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(interrupted(), output, top_k=1)
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_names_are_no_formulas_and_are_utf8_that_can_be_read_back(tmp_path: Path) -> None:
    names = [os.fsdecode(b"K\xfcche.png"), "=cmd|x.png", "plain\n.png"]
    predictions = [
        Prediction(path=Path(names[0]), top=(("=1+1", 0.5),)),
        Prediction(path=Path(names[1]), top=(("@SUM(1)", 0.5),)),
        Prediction(path=Path(names[2]), error="-broken"),
    ]
    assert write_predictions(predictions, tmp_path / "out.csv", top_k=1) == {"=1+1": 1, "@SUM(1)": 1, "": 1}
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    assert rows == [
        ["K\\xfcche.png", "'=1+1", "0.500000", ""],
        ["'=cmd|x.png", "'@SUM(1)", "0.500000", ""],
        ["plain\n.png", "", "", "'-broken"],
    ]
    assert [file_name(cell_text(row[0])) for row in rows] == names


def test_an_output_that_is_not_finite_is_an_error_of_its_row(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    [found] = predict_files(lambda batch: torch.full((len(batch), 3), torch.nan), [tmp_path / "a.png"], spec=SPEC)
    assert (found.top, found.error) == ((), "the network's output is NaN or infinite")
