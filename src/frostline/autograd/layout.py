"""A layered drawing of a directed acyclic graph: layers, order within a layer, coordinates.

Sugiyama's method: the layer of a node is its longest distance from the roots, an edge over several layers is led
through invisible nodes, barycentre sweeps remove crossings, and chains of nodes are stood upright and packed to the
left (after Brandes & Köpf, Fast and Simple Horizontal Coordinate Assignment, 2001).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[float, float]
SWEEPS = 12
LANE = 7.0  # px left and right of a line that passes a layer


@dataclass(frozen=True)
class Box:
    """What a node needs: px to the left and to the right of the axis that its edges run along, and its height."""

    left: float
    right: float
    height: float


@dataclass
class Layout:
    """axis: node -> (x of its axis, y of its top). routes: edge -> the points that its line runs through."""

    axis: dict[int, Point] = field(default_factory=dict)
    routes: dict[tuple[int, int], list[Point]] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0


def arrange(boxes: Mapping[int, Box], edges: Sequence[tuple[int, int]], *, gap_x: float, gap_y: float) -> Layout:
    """Positions for nodes and edges; nodes in `boxes` come in an order in which edges point forward."""
    edges = list(dict.fromkeys(edges))
    depth = _depths(boxes, edges)
    boxes = dict(boxes)
    chains = _through_layers(boxes, edges, depth)
    below: dict[int, list[int]] = {node: [] for node in boxes}
    above: dict[int, list[int]] = {node: [] for node in boxes}
    for step in dict.fromkeys(step for chain in chains.values() for step in pairwise(chain)):
        below[step[0]].append(step[1])
        above[step[1]].append(step[0])
    layers: list[list[int]] = [[] for _ in range(max(depth.values()) + 1)]
    for node in _depth_first(boxes, below, above):
        layers[depth[node]].append(node)
    layers = _uncross(layers, above, below)
    x = _pack(layers, boxes, above, gap_x)

    layout = Layout(width=max(x[node] + boxes[node].right for node in x))
    tops: list[float] = []
    heights = [max(boxes[node].height for node in layer) for layer in layers]
    for height in heights:
        tops.append(layout.height)
        layout.height += height + gap_y
    layout.height -= gap_y
    for node in depth:
        if node >= 0:
            layout.axis[node] = (x[node], tops[depth[node]])
    for edge, chain in chains.items():
        upper, *between, lower = chain
        bottom = {node: tops[depth[node]] + heights[depth[node]] for node in chain}
        # Straight down to the bottom of its layer before it bends: a neighbour may be taller.
        points = [(x[upper], tops[depth[upper]] + boxes[upper].height), (x[upper], bottom[upper])]
        for node in between:
            points += [(x[node], tops[depth[node]]), (x[node], bottom[node])]
        points.append((x[lower], tops[depth[lower]]))
        layout.routes[edge] = points
    return layout


def _depths(boxes: Mapping[int, Box], edges: Sequence[tuple[int, int]]) -> dict[int, int]:
    depth = dict.fromkeys(boxes, 0)
    following: dict[int, list[int]] = {node: [] for node in boxes}
    for upper, lower in edges:
        following[upper].append(lower)
    for node in boxes:
        for lower in following[node]:
            depth[lower] = max(depth[lower], depth[node] + 1)
    return depth


def _through_layers(
    boxes: dict[int, Box], edges: Sequence[tuple[int, int]], depth: dict[int, int]
) -> dict[tuple[int, int], list[int]]:
    """Edge -> its nodes layer by layer; the invisible ones get negative numbers and are added to boxes and depth.

    Edges into the same node share its invisible nodes, as their gradients are summed there: a densely connected
    network would need a lane for each pair of layers otherwise.
    """
    chains = {}
    lanes: dict[tuple[int, int], int] = {}
    for upper, lower in edges:
        chain = [upper]
        for layer in range(depth[upper] + 1, depth[lower]):
            invisible = lanes.setdefault((lower, layer), -1 - len(lanes))
            boxes[invisible], depth[invisible] = Box(LANE, LANE, 0.0), layer
            chain.append(invisible)
        chains[upper, lower] = [*chain, lower]
    return chains


def _depth_first(boxes: Mapping[int, Box], below: Mapping[int, list[int]], above: Mapping[int, list[int]]) -> list[int]:
    """Nodes as met from the roots, first edge first: few crossings to begin with."""
    met: dict[int, None] = {}
    stack = [node for node in boxes if not above[node]][::-1]
    while stack:
        node = stack.pop()
        if node not in met:
            met[node] = None
            stack += below[node][::-1]
    return list(met)


def _uncross(
    layers: list[list[int]], above: Mapping[int, list[int]], below: Mapping[int, list[int]]
) -> list[list[int]]:
    best, fewest = layers, _crossings(layers, below)
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        neighbours = above if down else below
        layers = [list(layer) for layer in layers]
        for index in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            place = {node: at for at, node in enumerate(layers[index - 1 if down else index + 1])}
            centre = {
                node: sum(place[other] for other in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else at
                for at, node in enumerate(layers[index])
            }
            layers[index].sort(key=centre.__getitem__)
        if (crossings := _crossings(layers, below)) < fewest:
            best, fewest = layers, crossings
    return best


def _crossings(layers: list[list[int]], below: Mapping[int, list[int]]) -> int:
    total = 0
    for upper, lower in pairwise(layers):
        place = {node: at for at, node in enumerate(lower)}
        ends = [sorted(place[other] for other in below[node]) for node in upper]
        flat: list[int] = []
        for targets in ends:
            total += sum(sum(1 for earlier in flat if earlier > target) for target in targets)
            flat += targets
    return total


def _pack(
    layers: list[list[int]], boxes: Mapping[int, Box], above: Mapping[int, list[int]], gap: float
) -> dict[int, float]:
    """Stand each node under one of those above it where no other line is crossed, then move all to the left."""
    head = {node: node for layer in layers for node in layer}
    for upper, lower in pairwise(layers):
        place = {node: at for at, node in enumerate(upper)}
        free = 0
        for node in lower:
            # The leftmost: in an autograd graph the first input of an operation is the main road.
            at = min((place[other] for other in above[node] if place[other] >= free), default=None)
            if at is not None:
                head[node], free = head[upper[at]], at + 1
    x = dict.fromkeys(head.values(), 0.0)
    moved = True
    while moved:  # the longest path through "stands right of", settled by repetition
        moved = False
        for layer in layers:
            edge = 0.0
            for node in layer:
                if x[head[node]] < edge + boxes[node].left - 1e-9:
                    x[head[node]], moved = edge + boxes[node].left, True
                edge = x[head[node]] + boxes[node].right + gap
    return {node: x[head[node]] for node in head}
