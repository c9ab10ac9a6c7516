"""The picture by stage: blocks in a column, and the path of the gradient from the loss down to the frost line."""

from collections.abc import Sequence

from frostline.autograd.blocks import Block
from frostline.autograd.svg import (
    ICE,
    ICE_INK,
    ICE_LINE,
    INK,
    MUTED,
    PAPER,
    WARM,
    WARM_INK,
    WARM_LINE,
    Canvas,
)
from frostline.tables import count, shape_text, size

WIDTH = 1200.0
LEFT, RIGHT = 130.0, 1050.0  # px, of the column of blocks
FORWARD, BACKWARD = 70.0, 1120.0  # px, the two paths
HIGH, GAP, FROST = 60.0, 22.0, 84.0  # px: a block, the space between two, the space for the frost line
# Right edges (px) of the columns of numbers.
COLUMNS = {"parameters": 560.0, "kept for backward": 740.0, "FLOPs per image": 890.0, "output": 1036.0}
COLOURS = {"trainable": (WARM, WARM_LINE), "partly trainable": (ICE, WARM_LINE)}
FROZEN_COLOURS = (ICE, ICE_LINE)
LONGEST = 28  # characters of a stage's name before the numbers begin


def stage_svg(blocks: Sequence[Block], *, title: str, summary: str, loss_bytes: int) -> str:
    """Blocks come in execution order and are drawn bottom to top: the loss stands above, and backward runs down.

    loss_bytes: what the loss's own operations keep for backward.
    """
    lowest = lowest_reached(blocks)
    y, tops, frost = 132.0, {}, None
    for index in reversed(range(-1, len(blocks) + 1)):  # len(blocks) is the loss, -1 the images
        tops[index] = y
        y += HIGH + GAP
        if index == lowest and lowest > 0:
            frost, y = y - GAP + FROST / 2, y - GAP + FROST
    canvas = Canvas(WIDTH, y + 50, title)
    canvas.text(30, 40, title, size=20, bold=True)
    canvas.text(30, 66, summary, colour=MUTED)
    _column_heads(canvas)
    middle = {index: top + HIGH / 2 for index, top in tops.items()}
    _forward_path(canvas, middle[-1], middle[len(blocks)])
    _backward_path(canvas, middle[len(blocks)], middle[lowest] if frost is None else frost)
    _end(canvas, tops[len(blocks)], "loss", "one number; backward starts here")
    canvas.text(COLUMNS["kept for backward"], tops[len(blocks)] + 35, size(loss_bytes), size=14, anchor="end")
    for index, block in enumerate(blocks):
        _block(canvas, tops[index], block)
    _end(canvas, tops[-1], "images", "they require no gradient")
    if frost is not None:
        _frost_line(canvas, frost)
    _legend(canvas, y + 16)
    return canvas.svg()


def lowest_reached(blocks: Sequence[Block]) -> int:
    """Index of the first stage, in execution order, that backward reaches; the frost line lies just before it."""
    return next((index for index, block in enumerate(blocks) if block.nodes), len(blocks))


def shorten(name: str) -> str:
    """The end of a long dotted name says more than its beginning."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def caption(block: Block) -> str:
    """What the stage does in backward, in a few words."""
    if block.trainable_tensors:
        return f"trains {block.trainable_tensors} of {block.tensors} tensors"
    if block.nodes:
        return "frozen; the gradient passes through"
    return f"frozen; trains 0 of {block.tensors} tensors" if block.tensors else "has no parameters"


def _column_heads(canvas: Canvas) -> None:
    for name, right in COLUMNS.items():
        canvas.text(right, 112, name, size=12, colour=MUTED, anchor="end")
    canvas.text(FORWARD, 112, "forward", size=12, colour=MUTED, anchor="middle")
    canvas.text(BACKWARD, 112, "backward", size=12, colour=WARM_INK, anchor="middle")


def _block(canvas: Canvas, top: float, block: Block) -> None:
    fill, line = COLOURS.get(block.state, FROZEN_COLOURS)
    warm = block.state in COLOURS
    canvas.rectangle(LEFT, top, RIGHT - LEFT, HIGH, fill=fill, line=line, dashed=not warm)
    if warm:
        canvas.disc(LEFT + 24, top + HIGH / 2, 7, fill=WARM_LINE)
    else:
        canvas.snowflake(LEFT + 24, top + HIGH / 2, 11)
    canvas.text(LEFT + 48, top + 26, shorten(block.stage), size=16, bold=True, colour=WARM_INK if warm else ICE_INK)
    canvas.text(LEFT + 48, top + 46, caption(block), size=12, colour=MUTED)
    values = (
        f"{block.parameters:,}",
        size(block.kept_bytes) if block.kept_bytes else "nothing",
        "not counted" if block.flops is None else count(block.flops),
        "" if block.shape is None else shape_text(block.shape),
    )
    for right, value in zip(COLUMNS.values(), values, strict=True):
        canvas.text(right, top + 35, value, size=14, anchor="end", colour=INK if block.nodes else MUTED)
    if block.nodes:
        enters = block.trainable_tensors > 0
        canvas.path(
            f"M{BACKWARD:.1f} {top + HIGH / 2:.1f}H{RIGHT + 4:.1f}",
            line=WARM_LINE,
            thickness=3 if enters else 1.5,
            dashed=not enters,
            arrow=enters,
        )


def _end(canvas: Canvas, top: float, name: str, remark: str) -> None:
    canvas.rectangle(LEFT, top, RIGHT - LEFT, HIGH, fill=PAPER, line=INK)
    canvas.text(LEFT + 48, top + 26, name, size=16, bold=True)
    canvas.text(LEFT + 48, top + 46, remark, size=12, colour=MUTED)


def _forward_path(canvas: Canvas, start: float, end: float) -> None:
    canvas.path(
        f"M{LEFT - 2:.1f} {start:.1f}H{FORWARD:.1f}V{end:.1f}H{LEFT - 2:.1f}", line=MUTED, thickness=2, arrow=True
    )


def _backward_path(canvas: Canvas, start: float, end: float) -> None:
    canvas.path(f"M{RIGHT + 2:.1f} {start:.1f}H{BACKWARD:.1f}V{end:.1f}", line=WARM_LINE, thickness=5)


def _frost_line(canvas: Canvas, y: float) -> None:
    step = 14.0
    teeth = "".join(f"l{step / 2:g} -6l{step / 2:g} 6" for _ in range(int((BACKWARD + 30 - FORWARD + 40) / step)))
    canvas.path(f"M{FORWARD - 40:.1f} {y:.1f}{teeth}", line=ICE_LINE, thickness=2.5)
    canvas.path(f"M{BACKWARD - 18:.1f} {y:.1f}h36", line=ICE_INK, thickness=6)
    canvas.text(LEFT + 48, y + 24, "frost line: the gradient stops here", bold=True, colour=ICE_INK)


def _legend(canvas: Canvas, y: float) -> None:
    x = LEFT
    for name, (fill, line) in {**COLOURS, "frozen": FROZEN_COLOURS}.items():
        canvas.rectangle(x, y, 22, 14, fill=fill, line=line, dashed=name == "frozen")
        canvas.text(x + 30, y + 12, name, size=12, colour=MUTED)
        x += 190
    canvas.path(f"M{x:.1f} {y + 7:.1f}h26", line=WARM_LINE, thickness=5)
    canvas.text(x + 36, y + 12, "path of the gradient", size=12, colour=MUTED)
