"""How a run ends: one message for what a user can fix, from whichever process met it."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.configs import config

from frostline.commands import train
from frostline.commands.main import main
from frostline.commands.run_log import explained_elsewhere
from frostline.freezing.checks import FrozenTensorChanged, GradientCheckFailed

CONFIG = config("speed.allocator=false")


def ending(folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> object:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(train, "train", fails)
    with pytest.raises(SystemExit) as ended:
        train.train_in(folder, CONFIG)
    return ended.value.code


@pytest.mark.parametrize("kind", [FrozenTensorChanged, GradientCheckFailed, FloatingPointError])
def test_a_failed_check_of_the_policy_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    assert ending(tmp_path, kind("it moved"), monkeypatch) == 2
    assert capsys.readouterr().err == f"frostline: it moved\n(traceback in {tmp_path / 'train.log'})\n"


@pytest.mark.parametrize(("age", "last", "code"), [
    (0, "frostline: The val loss became nan", 2),
    (0, "RuntimeError: a bug", 1),
    (100, "frostline: of an earlier run", 1),
])  # fmt: skip
def test_a_lost_connection_is_silent_where_another_rank_has_reported_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], age: int, last: str, code: int
) -> None:
    other = tmp_path / "train.rank1.log"
    other.write_text(f"Traceback\n{last}\n")
    os.utime(other, (time.time() - age,) * 2)
    assert ending(tmp_path, RuntimeError("Connection closed by peer"), monkeypatch) == code
    assert capsys.readouterr().err == ""


def test_a_mistakes_log_ends_with_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending(tmp_path, ValueError("two\nlines"), monkeypatch)
    assert explained_elsewhere(tmp_path, rank=1)
    assert not explained_elsewhere(tmp_path, rank=0)


def _another_class(photos: Path) -> None:
    shutil.copytree(photos / "train/cup", photos / "train/shoe")


def _another_name(photos: Path) -> None:
    for split in ("train", "val"):
        (photos / split / "cup").rename(photos / split / "mug")


def _fewer_images(photos: Path) -> None:
    (photos / "train/cup/0.png").unlink()


def _another_file(photos: Path) -> None:
    (photos / "train/cup/0.png").rename(photos / "train/cup/new.png")


CLASSES = "frostline: resume_from: the classes are others: 2 (cup, lamp) in the checkpoint,"
OTHERS = "frostline: The run cannot be resumed with other training images or in another order ("
OTHER_DATA: dict[Callable[[Path], object], str] = {
    _another_class: f"{CLASSES} 3 (cup, lamp, shoe) in the data. ",
    _another_name: f"{CLASSES} 2 (lamp, mug) in the data. ",
    _fewer_images: f"{OTHERS}training images 8 -> 7; checksum of the training images' names and labels ",
    _another_file: f"{OTHERS}checksum of the training images' names and labels ",
}


def test_a_resume_with_other_data_is_one_message_and_the_run_can_go_on_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw, photos = np.random.default_rng(0), tmp_path / "photos"
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cup", "lamp"):
            (photos / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(photos / split / name / f"{number}.png")
    words = ("data=image_folder", f"data.path={photos}", "data.image_size=32", "data.batch_size=4", "freeze=backbone")
    options = ("model.weights=none", "augment=none", "callbacks.pictures=false", "callbacks.progress_bar=false")
    main("train", [*words, *options, "trainer.max_epochs=1", "output_dir=runs"])
    [run] = (tmp_path / "runs").iterdir()
    shutil.move(photos, tmp_path / "own")
    for change, message in OTHER_DATA.items():
        shutil.rmtree(photos, ignore_errors=True)
        shutil.copytree(tmp_path / "own", photos)
        change(photos)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main("train", [f"resume_from={run}", "trainer.max_epochs=2"])
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert message in error
        assert "init_from" in error
        assert "Traceback" not in error
    main("train", [f"resume_from={run}", "trainer.max_epochs=2", f"data.path={tmp_path}/own"])
    assert "epoch 2/2" in capsys.readouterr().out
