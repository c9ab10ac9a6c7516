"""The picture by stage as a table, for terminals."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

from frostline.autograd.blocks import Block
from frostline.autograd.stage_view import caption, lowest_reached
from frostline.autograd.svg import count, size


def stage_text(blocks: Sequence[Block]) -> str:
    """A row for each stage, from the loss down, with the frost line between those reached and those not."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "parameters", "kept for backward", "FLOPs per image", ""):
        table.add_column(name, justify="left" if name in ("stage", "") else "right", no_wrap=True)
    lowest = lowest_reached(blocks)
    for index in reversed(range(len(blocks))):
        block = blocks[index]
        kept = size(block.kept_bytes) if block.kept_bytes else "-"
        flops = "-" if block.flops is None else count(block.flops)
        table.add_row(block.stage, f"{block.parameters:,}", kept, flops, caption(block))
        if index == lowest and lowest > 0:
            table.add_row("~" * max(len(other.stage) for other in blocks), "", "", "", "~ frost line ~")
    console = Console(file=StringIO(), width=100, color_system=None, markup=False)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"
