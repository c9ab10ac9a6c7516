"""The picture by stage: blocks in a column, and the path of the gradient from the loss down to the frost line."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from frostline.autograd.blocks import Block
from frostline.autograd.canvas import Canvas
from frostline.autograd.dot import dot_text
from frostline.figures import ICE, ICE_INK, ICE_LINE, INK, MUTED, PAPER, WARM, WARM_INK, WARM_LINE
from frostline.tables import as_text, count, new_table, shape_text, size

WIDTH = 1200.0
LEFT, RIGHT = 130.0, 1050.0  # px, of the column of blocks
FORWARD, BACKWARD = 70.0, 1120.0  # px, the two paths
HIGH, GAP, FROST = 60.0, 22.0, 84.0  # px: a block, the space between two, the space for the frost line
# Right edges (px) of the columns of numbers.
COLUMNS = {"parameters": 560.0, "kept for backward": 740.0, "FLOPs per image": 890.0, "output": 1036.0}
COLOURS = {"trainable": (WARM, WARM_LINE), "partly trainable": (ICE, WARM_LINE)}
FROZEN_COLOURS = (ICE, ICE_LINE)
LONGEST = 28  # characters of a stage's name before the numbers begin


def stage_figure(blocks: Sequence[Block], *, title: str, summary: str, loss_bytes: int) -> Figure:
    """Blocks come in execution order and are drawn bottom to top: the loss is at the top, and backward runs down.

    loss_bytes: what the loss's own operations keep for backward.
    """
    lowest = lowest_reached(blocks)
    y, tops, frost = 132.0, {}, None
    for index in reversed(range(-1, len(blocks) + 1)):  # len(blocks) is the loss, -1 the images
        tops[index] = y
        y += HIGH + GAP
        if index == lowest and lowest > 0:
            frost, y = y - GAP + FROST / 2, y - GAP + FROST
    canvas = Canvas(WIDTH, y + 50, title=title, summary=summary)
    for name, right in COLUMNS.items():
        canvas.text(right, 112, name, size=12, colour=MUTED, align="right")
    canvas.text(FORWARD, 112, "forward", size=12, colour=MUTED, align="center")
    canvas.text(BACKWARD, 112, "backward", size=12, colour=WARM_INK, align="center")
    top, bottom = tops[len(blocks)] + HIGH / 2, tops[-1] + HIGH / 2
    canvas.line((LEFT, bottom), (FORWARD, bottom), (FORWARD, top), (LEFT - 6, top), colour=MUTED, thickness=2, head=">")
    reached = tops[lowest] + HIGH / 2 if frost is None else frost
    canvas.line((RIGHT + 2, top), (BACKWARD, top), (BACKWARD, reached), colour=WARM_LINE, thickness=5)
    _end(canvas, tops[len(blocks)], "loss", "one number; backward starts here")
    canvas.text(COLUMNS["kept for backward"], tops[len(blocks)] + 35, size(loss_bytes), size=14, align="right")
    for index, block in enumerate(blocks):
        _block(canvas, tops[index], block)
    _end(canvas, tops[-1], "images", "they require no gradient")
    if frost is not None:
        zigzag = [(x, frost - 6 * (step % 2)) for step, x in enumerate(range(int(FORWARD) - 40, int(BACKWARD) + 30, 7))]
        canvas.line(*zigzag, colour=ICE_LINE, thickness=2.5)
        canvas.line((BACKWARD - 18, frost), (BACKWARD + 18, frost), colour=ICE_INK, thickness=6)
        canvas.text(LEFT + 48, frost + 24, "frost line: the gradient stops here", bold=True, colour=ICE_INK)
    _legend(canvas, y + 16)
    return canvas.figure()


def stage_dot(blocks: Sequence[Block], *, title: str) -> str:
    nodes = {"images": ("images", "")}
    for index, block in enumerate(blocks):
        text = f"{block.stage}\n{caption(block)}\n{block.parameters:,} parameters, keeps {size(block.kept_bytes)}"
        nodes[f"s{index}"] = (text, "trainable" if block.trainable_tensors else "frozen")
    nodes["loss"] = ("loss", "")
    lowest = lowest_reached(blocks)
    edges = []
    for index, (earlier, later) in enumerate(pairwise(nodes)):  # after `index` stages
        style: dict[str, object] = {"color": WARM_LINE, "penwidth": 3}
        if index <= lowest:
            style = {"color": ICE_LINE, "style": "dashed", "arrowhead": "none"}
        if index == lowest > 0:
            style |= {"arrowhead": "tee", "label": "frost line"}
        edges.append((later, earlier, style))
    return dot_text(title, nodes, edges)


def stage_text(blocks: Sequence[Block]) -> str:
    """The picture as a table for terminals: the loss's end first, the frost line between the rows."""
    table = new_table("stage", "parameters", "kept for backward", "FLOPs per image", "", left=("",))
    lowest = lowest_reached(blocks)
    for index, block in reversed(list(enumerate(blocks))):
        kept = size(block.kept_bytes) if block.kept_bytes else "-"
        flops = "-" if block.flops is None else count(block.flops)
        table.add_row(block.stage, f"{block.parameters:,}", kept, flops, caption(block))
        if index == lowest > 0:
            table.add_row("~" * max(len(other.stage) for other in blocks), "", "", "", "~ frost line ~")
    return as_text(table) + "\n"


def lowest_reached(blocks: Sequence[Block]) -> int:
    """Index of the first stage, in execution order, that backward reaches; the frost line is just before it."""
    return next((index for index, block in enumerate(blocks) if block.nodes), len(blocks))


def shorten(name: str) -> str:
    """Shorten a long dotted name to its end, which is the specific part."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def caption(block: Block) -> str:
    """What the stage does in backward, in a few words."""
    if block.trainable_tensors:
        return f"trains {block.trainable_tensors} of {block.tensors} tensors"
    if block.nodes:
        return "frozen; the gradient passes through"
    return f"frozen; trains 0 of {block.tensors} tensors" if block.tensors else "has no parameters"


def _block(canvas: Canvas, top: float, block: Block) -> None:
    middle, warm = top + HIGH / 2, block.state in COLOURS
    fill, line = COLOURS.get(block.state, FROZEN_COLOURS)
    canvas.box(LEFT, top, RIGHT - LEFT, HIGH, fill=fill, line=line, dashed=not warm)
    if warm:
        canvas.mark(LEFT + 24, middle, "o", colour=WARM_LINE, size=13)
    else:
        canvas.snowflake(LEFT + 24, middle)
    canvas.text(LEFT + 48, top + 26, shorten(block.stage), size=16, bold=True, colour=WARM_INK if warm else ICE_INK)
    canvas.text(LEFT + 48, top + 46, caption(block), size=12, colour=MUTED)
    values = (
        f"{block.parameters:,}",
        size(block.kept_bytes) if block.kept_bytes else "nothing",
        "not counted" if block.flops is None else count(block.flops),
        "" if block.shape is None else shape_text(block.shape),
    )
    for right, value in zip(COLUMNS.values(), values, strict=True):
        canvas.text(right, top + 35, value, size=14, align="right", colour=INK if block.nodes else MUTED)
    if block.trainable_tensors and block.nodes:
        canvas.line((BACKWARD, middle), (RIGHT + 8, middle), colour=WARM_LINE, thickness=3, head="<")
    elif block.nodes:
        canvas.line((BACKWARD, middle), (RIGHT + 4, middle), colour=WARM_LINE, dashed=True)


def _end(canvas: Canvas, top: float, name: str, remark: str) -> None:
    canvas.box(LEFT, top, RIGHT - LEFT, HIGH, fill=PAPER, line=INK)
    canvas.text(LEFT + 48, top + 26, name, size=16, bold=True)
    canvas.text(LEFT + 48, top + 46, remark, size=12, colour=MUTED)


def _legend(canvas: Canvas, y: float) -> None:
    x = LEFT
    for name, (fill, line) in {**COLOURS, "frozen": FROZEN_COLOURS}.items():
        canvas.box(x, y, 22, 14, fill=fill, line=line, dashed=name == "frozen")
        canvas.text(x + 30, y + 12, name, size=12, colour=MUTED)
        x += 190
    canvas.line((x, y + 7), (x + 26, y + 7), colour=WARM_LINE, thickness=5)
    canvas.text(x + 36, y + 12, "path of the gradient", size=12, colour=MUTED)
