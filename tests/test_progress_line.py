"""A line of progress is one line, whatever the width, and is drawn in a terminal only."""

import io
import sys

import pytest
from rich.cells import cell_len

from frostline.progress_line import Part, ProgressLine, clock, fitted, image_rate, of_total

PARTS = [
    Part("epoch 3/8", 0),
    Part("layer4 unfrozen", 5),
    Part("42/120", 1),
    Part("loss 0.83", 3),
    Part("acc 71 %", 4),
    Part("118 img/s", 6),
    Part("1:32 left", 2),
]


def test_parts_are_left_out_from_the_least_important_on() -> None:
    assert [fitted(PARTS, width=width) for width in (83, 82, 70, 52, 41, 29, 17, 9)] == [
        "epoch 3/8 · layer4 unfrozen · 42/120 · loss 0.83 · acc 71 % · 118 img/s · 1:32 left",
        "epoch 3/8 · layer4 unfrozen · 42/120 · loss 0.83 · acc 71 % · 1:32 left",
        "epoch 3/8 · 42/120 · loss 0.83 · acc 71 % · 1:32 left",
        "epoch 3/8 · 42/120 · loss 0.83 · 1:32 left",
        "epoch 3/8 · 42/120 · 1:32 left",
        "epoch 3/8 · 42/120",
        "epoch 3/8",
        "epoch 3/8",
    ]


def test_no_width_is_exceeded() -> None:
    wide = [Part("特徴 of the train images", 1), Part("42/120", 0)]
    for width in range(200):
        assert cell_len(fitted(PARTS, width=width)) <= width
        assert cell_len(fitted(wide, width=width)) <= width


def test_numbers_read_as_a_person_writes_them() -> None:
    assert [clock(seconds) for seconds in (0, 9.4, 92, 3600, 3692)] == ["0:00", "0:09", "1:32", "1:00:00", "1:01:32"]
    assert [of_total(1200, total) for total in (9000, 1234.0, float("inf"))] == ["1,200/9,000", "1,200/1,234", "1,200"]
    assert [image_rate(rate) for rate in (0.26, 9.94, 117.6, 4321)] == [
        "0.3 img/s",
        "9.9 img/s",
        "118 img/s",
        "4,321 img/s",
    ]


def test_a_file_is_no_terminal_even_where_colours_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    line = ProgressLine()
    line.show(*PARTS, at_once=True)
    print("printed")
    line.clear()
    assert file.getvalue() == "printed\n"
