"""The picture by stage as a table, for terminals."""

from collections.abc import Sequence

from frostline.autograd.blocks import Block
from frostline.autograd.stage_view import caption, lowest_reached
from frostline.tables import as_text, count, new_table, size


def stage_text(blocks: Sequence[Block]) -> str:
    """A row for each stage, from the loss down, with the frost line between those reached and those not."""
    table = new_table("stage", "parameters", "kept for backward", "FLOPs per image", "", left=("",))
    lowest = lowest_reached(blocks)
    for index, block in reversed(list(enumerate(blocks))):
        kept = size(block.kept_bytes) if block.kept_bytes else "-"
        flops = "-" if block.flops is None else count(block.flops)
        table.add_row(block.stage, f"{block.parameters:,}", kept, flops, caption(block))
        if index == lowest and lowest > 0:
            table.add_row("~" * max(len(other.stage) for other in blocks), "", "", "", "~ frost line ~")
    return as_text(table) + "\n"
