"""Tables and numbers as text, in one style."""

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich is imported on use: a freezing policy needs none
    from rich.console import RenderableType
    from rich.table import Table

WIDTH = 120  # columns of a table that goes to a log or a file


def new_table(*columns: str, left: Sequence[str] = ()) -> "Table":
    """An empty table without borders: the first column and those in `left` are aligned left, numbers right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column in left else "right", overflow="fold")
    return table


def as_text(renderable: "RenderableType", *, width: int = WIDTH) -> str:
    """The lines as plain text, without colours and trailing spaces."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=width, color_system=None, markup=False, emoji=False).print(renderable)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def count(number: float) -> str:
    """1234567 -> "1.23 M": three significant digits with the prefixes of the SI."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.3g}"


def size(number: int) -> str:
    """Bytes with binary prefixes: 204900 -> "200 KiB"."""
    value, prefixes = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(prefixes) > 1:
        value, prefixes = value / 1024, prefixes[1:]
    return f"{value:.3g} {prefixes[0]}"


def shape_text(shape: Sequence[int]) -> str:
    """(2, 512) -> "2×512"; "scalar" for a tensor without dimensions."""
    return "×".join(str(extent) for extent in shape) or "scalar"
