"""The picture by operation: a row for each operation of the autograd graph, from the loss at the top to the leaves."""

from collections import Counter
from functools import reduce
from heapq import heappop, heappush
from operator import or_
from textwrap import wrap

from matplotlib.figure import Figure

from frostline.autograd.canvas import Canvas, text_width
from frostline.autograd.dot import dot_text
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
    leaves = _leaves(graph)
    lanes, edges = lanes_of(graph)
    names = LEFT + LANE * (1 + max((*lanes.values(), *edges.values())))
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
    _draw_edges(canvas, lanes, edges, rows)
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
    return canvas.figure()


def note_of(node: Node) -> str:
    """The module that made the node, and what it keeps for backward."""
    kept = [f"keeps {size(node.kept_bytes)}"] if node.kept_bytes else []
    return " · ".join([*([node.module] if node.module else []), *kept])


def leaf_label(node: Node) -> str:
    return f"{node.parameter or 'unnamed'} ({shape_text(node.shape or ())})"


def operation_dot(graph: Graph, *, title: str) -> str:
    nodes = {
        f"n{node.index}": (leaf_label(node), "trainable")
        if node.is_leaf
        else (f"{node.operation}\n{note_of(node)}".rstrip(), "")
        for node in graph.nodes
    }
    if graph.frozen:
        nodes["frozen"] = (f"{len(graph.frozen)} frozen parameter tensors: in no graph", "frozen")
    return dot_text(title, nodes, ((f"n{source}", f"n{target}", {}) for source, target in graph.edges))


def lanes_of(graph: Graph) -> tuple[dict[int, int], dict[tuple[int, int], int]]:
    """The lane, counted from the left, of each operation and of each edge (from, to) between two.

    The longest path is in lane 0; all else is beside it. An edge holds its lane until the row of its target, and edges
    to one target share a lane, so that no edge runs through another operation.
    """
    after = operations_after(graph)
    longest: dict[int, int] = {}
    for node in reversed(after):
        longest[node] = 1 + max((longest[other] for other in after[node]), default=0)
    path = [0]
    while following := after[path[-1]]:
        path.append(max(following, key=longest.__getitem__))
    trunk = dict(zip(path, [*path[1:], None], strict=True))
    lanes: dict[int, int] = {}
    edges: dict[tuple[int, int], int] = {}
    taken: dict[int, int] = {}  # lane beside the trunk -> the operation further down that its edges lead to
    for node, following in after.items():
        arriving = [lane for lane, target in taken.items() if target == node]
        lanes[node] = 0 if node in trunk else min(arriving)
        for lane in arriving:
            del taken[lane]
        for other in following:
            if trunk.get(node) == other:
                edges[node, other] = 0
                continue
            shared = [lane for lane, target in taken.items() if target == other]
            free = (lane for lane in (lanes[node], *range(1, len(taken) + 2)) if lane and lane not in taken)
            edges[node, other] = shared[0] if shared else next(free)
            taken[edges[node, other]] = other
    return lanes, edges


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


def _draw_edges(
    canvas: Canvas, lanes: dict[int, int], edges: dict[tuple[int, int], int], rows: dict[int, float]
) -> None:
    heights = list(rows.values())
    place = {node: row for row, node in enumerate(rows)}
    for (source, target), lane in edges.items():
        first, last = place[source], place[target]
        # Into its lane before the next row, straight down, and out of it after the last row before the target's.
        between = dict.fromkeys((first + 1, last - 1)) if last - first > 1 else {}
        through = [(LEFT + LANE * lane, heights[row]) for row in between]
        start, end = ((LEFT + LANE * lanes[node], rows[node]) for node in (source, target))
        canvas.line(start, *through, end, colour=MUTED)


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
