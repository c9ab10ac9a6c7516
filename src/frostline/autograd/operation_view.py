"""The picture by operation: a row for each operation of the autograd graph, from the loss at the top to the leaves."""

from collections import Counter
from functools import reduce
from heapq import heappop, heappush
from itertools import pairwise
from operator import or_
from textwrap import wrap

from matplotlib.figure import Figure

from frostline.autograd.canvas import Canvas, text_width
from frostline.autograd.graph import Graph, Node
from frostline.figures import ICE, ICE_INK, ICE_LINE, INK, MUTED, WARM, WARM_INK, WARM_LINE
from frostline.tables import shape_text, size

LEFT, TOP, LANE, ROW = 44.0, 140.0, 18.0, 26.0  # px
NOTE = 11.0  # px, the smaller letters
WRAP = 108  # characters in a line of the note on frozen parameters


def operation_figure(graph: Graph, *, title: str, summary: str) -> Figure:
    """Backward runs down the lines from operation to operation; the leaves of an operation are beside it.

    A leaf that several operations read is drawn beside each, dashed from the second on.
    """
    operations = [graph.nodes[index] for index in operations_after(graph)]
    leaves, lanes = _leaves(graph), lanes_of(graph)
    names = LEFT + LANE * (1 + max(lanes.values()))
    notes = names + max(text_width(node.operation) for node in operations) + 20
    chips = notes + max(text_width(note_of(node), NOTE) for node in operations) + 40
    below = _not_reached(graph)
    rows, height = {}, TOP
    for node in operations:
        rows[node.index] = height
        height += ROW * max(1, len(leaves[node.index]))
    right = max((text_width(text, NOTE) for row in leaves.values() for text, _ in row), default=0)
    width = max(960.0, chips + right + 60, text_width(summary) + 60)
    canvas = Canvas(width, height + (40 + 18 * len(below) if below else 0) + 30, title=title, summary=summary)
    _legend(canvas, frozen=bool(below))
    _edges(canvas, graph, lanes, rows)
    for node in operations:
        y, lane = rows[node.index], LEFT + LANE * lanes[node.index]
        canvas.mark(lane, y, "o", colour=INK if node.index == 0 else MUTED, size=11 if node.index == 0 else 8)
        canvas.text(names, y + 4, node.operation, bold=True)
        canvas.text(notes, y + 4, note_of(node), size=NOTE, colour=MUTED)
        for row, (text, first) in enumerate(leaves[node.index]):
            _leaf(canvas, chips, y + row * ROW, text, first=first)
    if below:
        canvas.box(30, height + 4, width - 60, 24 + 18 * len(below), fill=ICE, line=ICE_LINE, dashed=True)
        canvas.snowflake(58, height + 16 + 9 * len(below))
        for row, line in enumerate(below):
            bold = "parameter tensors are" in line
            canvas.text(86, height + 29 + 18 * row, line, size=12, colour=ICE_INK, bold=bold)
    return canvas.figure


def note_of(node: Node) -> str:
    """The module that made the node, and what it keeps for backward."""
    kept = [f"keeps {size(node.kept_bytes)}"] if node.kept_bytes else []
    return " · ".join([*([node.module] if node.module else []), *kept])


def leaf_label(node: Node) -> str:
    return f"{node.parameter or 'unnamed'} ({shape_text(node.shape or ())})"


def lanes_of(graph: Graph) -> dict[int, int]:
    """Operation -> the lane, counted from the left, of the node and of the edges to it.

    As `git log --graph` does: a lane is free until an edge to a node further down takes it, and again below that node.
    """
    following = operations_after(graph)
    lanes: dict[int, int] = {0: 0}
    taken = {0}  # by a node that is still to come
    for node, after in following.items():
        taken.discard(lanes[node])
        for other in after:
            if other not in lanes:
                free = [lanes[node], *range(len(taken) + 1)]
                lanes[other] = next(lane for lane in free if lane not in taken)
                taken.add(lanes[other])
    return lanes


def operations_after(graph: Graph) -> dict[int, list[int]]:
    """Operation -> the operations that backward hands its gradients to, each once, in the order of its inputs.

    The keys are in the order of the rows: every operation after those that hand it gradients, and of several that could
    come next the one with the fewest below it, so that short branches stay beside the operation that reads them.
    """
    after: dict[int, dict[int, None]] = {node.index: {} for node in graph.nodes if not node.is_leaf}
    for source, target in graph.edges:
        if target in after:
            after[source][target] = None
    below: dict[int, int] = {}  # bit i: node i can be reached
    for node in reversed(after):
        below[node] = reduce(or_, (below[other] | 1 << other for other in after[node]), 0)
    waits_for = Counter(other for others in after.values() for other in others)
    ready, ordered = [(below[0].bit_count(), 0)], {}
    while ready:
        _, node = heappop(ready)
        ordered[node] = list(after[node])
        for other in ordered[node]:
            waits_for[other] -= 1
            if not waits_for[other]:
                heappush(ready, (below[other].bit_count(), other))
    return ordered


def _leaves(graph: Graph) -> dict[int, list[tuple[str, bool]]]:
    """Operation -> the (label, whether it is the first occurrence) of its leaves."""
    leaves: dict[int, list[tuple[str, bool]]] = {node.index: [] for node in graph.nodes}
    seen: set[int] = set()
    for (source, target), times in Counter(graph.edges).items():
        if graph.nodes[target].is_leaf:
            text = leaf_label(graph.nodes[target]) + (f" used {times} times" if times > 1 else "")
            leaves[source].append((text, target not in seen))
            seen.add(target)
    return leaves


def _edges(canvas: Canvas, graph: Graph, lanes: dict[int, int], rows: dict[int, float]) -> None:
    next_row = {node: rows[below] for node, below in pairwise(rows)}
    for node, after in operations_after(graph).items():
        x, y = LEFT + LANE * lanes[node], rows[node]
        for other in after:
            to = LEFT + LANE * lanes[other]
            # To the other lane before the next row, then straight down.
            canvas.line((x, y), (to, next_row[node]), (to, rows[other]), colour=MUTED)


def _leaf(canvas: Canvas, x: float, y: float, text: str, *, first: bool) -> None:
    canvas.line((x - 22, y), (x - 6, y), colour=WARM_LINE, head=">")
    canvas.box(x, y - 10, text_width(text, NOTE) + 20, 20, fill=WARM, line=WARM_LINE, dashed=not first)
    canvas.text(x + 10, y + 4, text, size=NOTE, colour=WARM_INK)


def _legend(canvas: Canvas, *, frozen: bool) -> None:
    canvas.mark(41, 96, "o", colour=MUTED, size=8)
    canvas.text(60, 100, "operation; backward runs down the lines", size=12, colour=MUTED)
    canvas.box(390, 89, 22, 14, fill=WARM, line=WARM_LINE)
    canvas.text(420, 100, "leaf: backward fills its .grad", size=12, colour=MUTED)
    if frozen:
        canvas.box(670, 89, 22, 14, fill=ICE, line=ICE_LINE, dashed=True)
        canvas.text(700, 100, "frozen: in no graph", size=12, colour=MUTED)


def _not_reached(graph: Graph) -> list[str]:
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
