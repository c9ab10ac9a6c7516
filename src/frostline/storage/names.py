"""Names from outside (files, classes) as a terminal, a log, a UTF-8 file or a CSV cell can hold them."""

import re
from collections.abc import Sequence

# Control characters (C0 without tab and newline, DEL, C1), direction overrides, line separators, lone surrogates.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = re.compile("'*[=+\\-@\t\r]")


def printable(text: str) -> str:
    """The text with each character that acts on a terminal as `\\xNN` or `\\uNNNN`.

    Tabs and newlines stay. A byte of a file name that is not UTF-8 becomes `\\xNN`.
    """
    return UNPRINTABLE.sub(_escaped, text)


def printable_name(name: object) -> str:
    """`printable`, for a name within a line: a tab and a newline in it are escaped as well."""
    return printable(str(name)).replace("\n", "\\n").replace("\t", "\\t")


def first_of(names: Sequence[str], *, most: int = 10) -> str:
    """Some names in a line: up to `most` of them, and `…` for the others."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def utf8_name(name: str) -> str:
    """A file name as UTF-8 text: a byte that is not UTF-8 is written `\\xNN`, and then a backslash `\\\\`.

    `file_name` gives the name back. Other names stay as they are, unless one looks like such a text.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return re.sub("[\udc80-\udcff]", _escaped, name.replace("\\", "\\\\"))
    return name if file_name(name) == name else name.replace("\\", "\\\\")


def file_name(text: str) -> str:
    """The file name that `utf8_name` made a text of."""
    return re.sub(r"\\(\\|x([89a-f][0-9a-f]))", lambda m: chr(0xDC00 + int(m[2], 16)) if m[2] else "\\", text)


def cell(text: str) -> str:
    """A CSV cell that no spreadsheet takes for a formula: `'` is put before =, +, -, @, tab and carriage return.

    Also before one of these behind quotes, so that `cell_text` gives back every text.
    """
    return f"'{text}" if FORMULA.match(text) else text


def cell_text(text: str) -> str:
    """The text that `cell` made a cell of."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def _escaped(match: "re.Match[str]") -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's stand-in for a byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
