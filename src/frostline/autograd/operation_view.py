"""The picture by operation: every node of the autograd graph, from the loss at the top to the leaves."""

from collections import Counter
from itertools import pairwise
from textwrap import wrap

from frostline.autograd.graph import Graph, Node
from frostline.autograd.layout import Box, Layout, Point, arrange
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
    text_width,
)
from frostline.tables import shape_text, size

MARGIN, HEAD = 40.0, 132.0  # px
PAD, CHIP, CHIP_GAP, LINK = 10.0, 20.0, 4.0, 20.0  # px; a chip is the small box of a leaf beside its operation
NAME_SIZE, NOTE_SIZE = 13.0, 11.0
LEAST_WIDTH = 900.0
WRAP = 118  # characters in a line of the note on frozen parameters


def operation_svg(graph: Graph, *, title: str, summary: str) -> str:
    """Operations are laid out in layers; the leaves that an operation reads stand beside it, one box each.

    A leaf that several operations read is drawn beside each, dashed from the second on.
    """
    operations = {node.index: node for node in graph.nodes if not node.is_leaf}
    chips = _chips(graph)
    boxes = {index: _box(node, chips[index]) for index, node in operations.items()}
    between = [edge for edge in graph.edges if edge[0] in operations and edge[1] in operations]
    layout = arrange(boxes, between, gap_x=24.0, gap_y=26.0)
    note = _outside_note(graph)
    width = max(LEAST_WIDTH, layout.width + 2 * MARGIN, 2 * MARGIN + text_width(summary, 13))
    height = HEAD + layout.height + (30 + 18 * len(note) + 40 if note else 0) + 40
    canvas = Canvas(width, height, title)
    canvas.text(30, 40, title, size=20, bold=True)
    canvas.text(30, 66, summary, colour=MUTED)
    _legend(canvas, frozen=bool(note))
    _edges(canvas, layout, between)
    for index, node in operations.items():
        x, y = layout.axis[index]
        _operation(canvas, node, chips[index], boxes[index], x + MARGIN, y + HEAD)
    if note:
        _draw_note(canvas, note, HEAD + layout.height + 30, width)
    return canvas.svg()


def label(node: Node) -> tuple[str, str]:
    """An operation's two lines: its name; who made it and what it keeps."""
    notes = [node.module] if node.module else []
    if node.kept_bytes:
        notes.append(f"keeps {size(node.kept_bytes)}")
    return node.operation, " · ".join(notes)


def leaf_label(node: Node) -> str:
    return f"{node.parameter or 'unnamed'} ({shape_text(node.shape or ())})"


def _chips(graph: Graph) -> dict[int, list[tuple[str, bool]]]:
    """Operation -> the (label, met for the first time) of its leaves."""
    chips: dict[int, list[tuple[str, bool]]] = {node.index: [] for node in graph.nodes}
    seen: set[int] = set()
    for (source, target), times in Counter(graph.edges).items():
        if graph.nodes[target].is_leaf:
            text = leaf_label(graph.nodes[target]) + (f" used {times} times" if times > 1 else "")
            chips[source].append((text, target not in seen))
            seen.add(target)
    return chips


def _half_width(node: Node) -> float:
    name, note = label(node)
    return max(text_width(name, NAME_SIZE), text_width(note, NOTE_SIZE), 60.0) / 2 + PAD


def _box(node: Node, chips: list[tuple[str, bool]]) -> Box:
    half = _half_width(node)
    beside = LINK + max(text_width(text, NOTE_SIZE) for text, _ in chips) + 2 * PAD if chips else 0.0
    return Box(half, half + beside, max(44.0, len(chips) * (CHIP + CHIP_GAP) - CHIP_GAP))


def _operation(canvas: Canvas, node: Node, chips: list[tuple[str, bool]], box: Box, x: float, y: float) -> None:
    half, middle = _half_width(node), y + box.height / 2
    root = node.index == 0
    canvas.rectangle(x - half, y, 2 * half, box.height, fill=INK if root else PAPER, line=INK)
    name, note = label(node)
    colours = (PAPER, "#c9d2dc") if root else (INK, MUTED)
    canvas.text(
        x, middle - 3 if note else middle + 5, name, size=NAME_SIZE, anchor="middle", bold=True, colour=colours[0]
    )
    if note:
        canvas.text(x, middle + 13, note, size=NOTE_SIZE, anchor="middle", colour=colours[1])
    left = x + half + LINK
    top = middle - (len(chips) * (CHIP + CHIP_GAP) - CHIP_GAP) / 2
    for text, first in chips:
        canvas.path(f"M{x + half:.1f} {top + CHIP / 2:.1f}H{left - 1:.1f}", line=WARM_LINE, arrow=True)
        canvas.rectangle(
            left, top, text_width(text, NOTE_SIZE) + 2 * PAD, CHIP, fill=WARM, line=WARM_LINE, dashed=not first
        )
        canvas.text(left + PAD, top + 14, text, size=NOTE_SIZE, colour=WARM_INK)
        top += CHIP + CHIP_GAP


def _edges(canvas: Canvas, layout: Layout, edges: list[tuple[int, int]]) -> None:
    drawn: set[tuple[Point, Point]] = set()  # edges that share a lane are drawn once there
    for edge in dict.fromkeys(edges):
        points = [(x + MARGIN, y + HEAD) for x, y in layout.routes[edge]]
        data, ends = "", False
        for start, end in pairwise(points):
            if (start, end) in drawn or start == end:
                continue
            drawn.add((start, end))
            ends = end == points[-1]
            middle = (start[1] + end[1]) / 2
            data += f"M{start[0]:.1f} {start[1]:.1f}"
            if start[0] == end[0]:
                data += f"V{end[1]:.1f}"
            else:
                data += f"C{start[0]:.1f} {middle:.1f} {end[0]:.1f} {middle:.1f} {end[0]:.1f} {end[1]:.1f}"
        if data:
            canvas.path(data, line=MUTED, arrow=ends)


def _legend(canvas: Canvas, *, frozen: bool) -> None:
    y = 88.0
    canvas.rectangle(30, y, 22, 14, fill=PAPER, line=INK)
    canvas.text(60, y + 12, "operation; backward runs along the arrows", size=12, colour=MUTED)
    canvas.rectangle(390, y, 22, 14, fill=WARM, line=WARM_LINE)
    canvas.text(420, y + 12, "leaf: backward fills its .grad", size=12, colour=MUTED)
    if frozen:
        canvas.rectangle(660, y, 22, 14, fill=ICE, line=ICE_LINE, dashed=True)
        canvas.text(690, y + 12, "frozen: in no graph", size=12, colour=MUTED)


def _outside_note(graph: Graph) -> list[str]:
    """Lines that name what the graph does not reach, gathered by the first part of the parameters' names."""
    lines: list[str] = []
    for names, sentence in (
        (graph.frozen, "Below the frost line: {} parameter tensors are in no graph and get no gradient"),
        (graph.unreached, "{} parameter tensors are trainable and yet not reached: the loss does not depend on them"),
    ):
        if names:
            groups = Counter(name.partition(".")[0] for name in names)
            entries = " · ".join(f"{group} ({tensors})" for group, tensors in groups.items())
            lines += [sentence.format(len(names)), *wrap(entries, WRAP, break_long_words=False)]
    return lines


def _draw_note(canvas: Canvas, lines: list[str], y: float, width: float) -> None:
    canvas.rectangle(MARGIN, y, width - 2 * MARGIN, 24 + 18 * len(lines), fill=ICE, line=ICE_LINE, dashed=True)
    canvas.snowflake(MARGIN + 28, y + 12 + 9 * len(lines), 12)
    for index, line in enumerate(lines):
        canvas.text(
            MARGIN + 56, y + 25 + 18 * index, line, size=12, colour=ICE_INK, bold="parameter tensors are" in line
        )
