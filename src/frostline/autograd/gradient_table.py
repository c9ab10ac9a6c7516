"""The gradients as a table for terminals and files."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from frostline.autograd.flow import Flow
from frostline.autograd.reading import read

COLUMNS = ("trains", "norm", "mean |g|", "max |g|", "zeros", "Δw/w", "noise")


def gradient_table(flows: Sequence[Flow]) -> Group:
    """A row for each stage and, below, a sentence on each; fits 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for flow in flows:
        style = "cyan" if not flow.trainable else ""
        share = None if flow.zero_share is None else f"{100 * flow.zero_share:.3g} %"
        numbers = [flow.norm, flow.mean, flow.largest, share, flow.update_ratio, flow.noise]
        table.add_row(
            flow.name, f"{flow.trainable}/{flow.tensors}", *(_cell(number) for number in numbers), style=style
        )
    return Group(table, Text(""), *(Text(read(flow, flows)) for flow in flows))


def gradient_text(flows: Sequence[Flow], *, width: int = 120) -> str:
    """The same as plain text."""
    console = Console(file=StringIO(), width=width, color_system=None, markup=False)
    console.print(gradient_table(flows))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.2e}"
