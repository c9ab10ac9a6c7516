"""`frostline lr_find`, as typed; in this process, since each start of torch takes seconds."""

import re
from pathlib import Path

import pytest

from frostline.commands.main import main

SMALL = (
    "data=synthetic", "data.length=32", "data.classes=3", "data.image_size=32", "data.batch_size=8",
    "model.weights=none", "trainer.precision=32-true", "freeze=backbone", "augment=none",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / "cache"))


def refused(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main("lr_find", list(words))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_the_last_line_is_an_override_and_nothing_but_the_picture_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main("lr_find", [*SMALL, "steps=60"])
    out = capsys.readouterr().out
    assert "resnet18, freeze=backbone: " in out
    assert f"drawn: {tmp_path}/lr_find.svg" in out
    assert re.fullmatch(r"optimizer\.lr=\S+", out.splitlines()[-1])
    assert {path.name for path in tmp_path.iterdir()} == {"lr_find.svg", "cache"}
    assert list((tmp_path / "cache").rglob("*.features"))  # computed once for all steps, and there for the training


def test_the_phase_that_trains_most_is_tested_unless_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL[:-2], "augment=none", "freeze=gradual_unfreezing", "steps=40", "max_lr=0.01", "output=null"]
    main("lr_find", words)
    assert "freeze=gradual_unfreezing, phase all: " in capsys.readouterr().out
    main("lr_find", [*words, "phase=head", "max_lr=1"])
    assert "freeze=gradual_unfreezing, phase head: " in capsys.readouterr().out
    assert "It has: head, layer4, layer3, all." in refused(*words, "phase=body", capsys=capsys)


def test_a_loss_that_never_falls_ends_with_the_reason_and_no_override(capsys: pytest.CaptureFixture[str]) -> None:
    """At rates of a billionth nothing is learned."""
    words = [*SMALL, "steps=40", "min_lr=1e-12", "max_lr=1e-9", "output=never.png"]
    error = refused(*words, capsys=capsys)
    assert "no rate to suggest: the loss never fell clearly below" in error
    assert "min_lr, max_lr, steps" in error


def test_what_a_range_test_cannot_do_is_refused_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(*SMALL, "device=cpu_ddp", "min_lr=1", "max_lr=0.1", "steps=3", "output=picture.gif", capsys=capsys)
    for words in (
        "device.devices: this command runs on one device",
        "min_lr, max_lr: the rates rise from the first to the second, but 1 is not below 0.1",
        "steps",
        "picture.gif` must end in .svg, .png or .pdf",
    ):
        assert words in error
    assert not list(tmp_path.iterdir())
