"""How a command ends: one message and exit code 2 for a user's mistake."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from frostline.commands.failures import USER_ERROR, explained, fail, message_of
from frostline.commands.main import main


def test_one_problem_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        fail(["seed: must be an integer."])
    assert end.value.code == 2
    assert capsys.readouterr().err == "frostline: seed: must be an integer.\n"


def test_several_problems_are_counted_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(["a: wrong.", "b: wrong."])
    assert capsys.readouterr().err == "2 problems:\n  a: wrong.\n  b: wrong.\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("loss.name: unknown"), "loss.name: unknown"),
        (FloatingPointError("The loss became nan"), "The loss became nan"),
        (FileNotFoundError(errno.ENOENT, "There is no checkpoint `x`"), "There is no checkpoint `x`"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.png"), "No such file or directory: x.png"),
        (FileNotFoundError("x: no such file or folder."), "x: no such file or folder."),
    ],
)
def test_a_users_mistake_ends_in_its_message(
    capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    assert message_of(error) == message

    @explained
    def run(settings: Mapping[str, Any]) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run({})
    assert end.value.code == 2
    assert end.value.__suppress_context__  # no traceback
    assert capsys.readouterr().err == f"frostline: {message}\n"


def test_an_error_of_our_own_keeps_its_traceback() -> None:
    @explained
    def run(settings: Mapping[str, Any]) -> None:
        raise KeyError("our own mistake")

    with pytest.raises(KeyError):
        run({})


@pytest.mark.parametrize("key", ["inputs", "checkpoint"])
def test_a_path_too_long_for_the_system(capsys: pytest.CaptureFixture[str], key: str) -> None:
    given = {"inputs": ".", "checkpoint": "x.ckpt"} | {key: "a" * 5000}
    with pytest.raises(SystemExit) as end:
        main("predict", [f"{name}={value}" for name, value in given.items()])
    assert end.value.code == 2
    output = capsys.readouterr().err
    assert f" {key}: `aaa" in output
    assert "`: File name too long\n" in output
    assert "Traceback" not in output


def test_two_actions_at_once_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main("plan", ["-m", "seed=1,2", "--cfg", "job"])
    assert end.value.code == USER_ERROR
    assert capsys.readouterr().err.startswith("frostline: --multirun, --cfg: take one of them.")


def test_a_working_directory_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as end:
        main("plan", ["data=digits"])
    assert end.value.code == USER_ERROR
    assert capsys.readouterr().err == "frostline: The working directory has been removed. Go to another one: cd DIR\n"
