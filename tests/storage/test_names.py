"""Names from outside reach no terminal raw, and are read back as they were."""

import os

import pytest

from frostline.storage.names import cell, cell_text, file_name, printable, printable_name, utf8_name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2Jbad.png", r"\x1b]0;owned\x07\x1b[2Jbad.png"),
        ("\x9b31mred", r"\x9b31mred"),
        ("a\rb\x7f\x00", r"a\x0db\x7f\x00"),
        ("gpj.\u202eexe\u2066", r"gpj.\u202eexe\u2066"),
        (os.fsdecode(b"K\xfcche.png"), r"K\xfcche.png"),
        ("Küche 日本 ×\n\tplain", "Küche 日本 ×\n\tplain"),
    ],
)
def test_printable_escapes_what_acts_on_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_name_stays_within_its_line() -> None:
    assert printable_name("a\nfrostline: all is well\t.png") == r"a\nfrostline: all is well\t.png"


@pytest.mark.parametrize(
    "name", [b"plain", b"K\xfcche\\.png", b"a\\xfc", b"\xff\x80", "Küche\\xfc".encode(), b"\\\xfc"]
)
def test_a_name_that_is_no_utf8_is_stored_reversibly(name: bytes) -> None:
    stored = utf8_name(os.fsdecode(name))
    stored.encode()
    assert os.fsencode(file_name(stored)) == name


def test_stored_names() -> None:
    assert utf8_name(os.fsdecode(b"K\xfcche.png")) == r"K\xfcche.png"
    assert utf8_name("Küche") == "Küche"
    assert utf8_name("a\\b") == "a\\b"
    assert utf8_name(r"a\xfc") == r"a\\xfc"  # would else be taken for a byte


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(1)", "\tx", "\rx", "'=1", "''@x"])
def test_no_cell_begins_as_a_formula(text: str) -> None:
    assert cell(text) == f"'{text}"
    assert cell_text(cell(text)) == text


@pytest.mark.parametrize("text", ["cat", "'quoted'", "a=b", ""])
def test_other_cells_stay(text: str) -> None:
    assert cell(text) == text == cell_text(text)
