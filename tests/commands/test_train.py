"""How a run ends: one message for what a user can fix, from whichever process met it."""

import os
import time
from pathlib import Path

import pytest
from tests.configs import config

from frostline.commands import train
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
