"""The same two pictures in Graphviz's DOT language."""

from collections.abc import Sequence
from itertools import pairwise

from frostline.autograd.blocks import Block
from frostline.autograd.graph import Graph
from frostline.autograd.operation_view import leaf_label, note_of
from frostline.autograd.stage_view import caption, lowest_reached
from frostline.figures import ICE, ICE_LINE, INK, PAPER, WARM, WARM_LINE
from frostline.tables import size

HEADER = 'digraph autograd {\n  node [shape=box style="rounded,filled" fontname="DejaVu Sans Mono" fontsize=11];\n'
FROZEN = f'style="rounded,filled,dashed" fillcolor="{ICE}" color="{ICE_LINE}"'
TRAINABLE = f'fillcolor="{WARM}" color="{WARM_LINE}"'
PLAIN = f'fillcolor="{PAPER}" color="{INK}"'


def operation_dot(graph: Graph, *, title: str) -> str:
    lines = [f"  label={_quoted(title)} labelloc=t;"]
    for node in graph.nodes:
        text = leaf_label(node) if node.is_leaf else f"{node.operation}\n{note_of(node)}".rstrip()
        lines.append(f"  n{node.index} [label={_quoted(text)} {TRAINABLE if node.is_leaf else PLAIN}];")
    lines += [f"  n{source} -> n{target};" for source, target in graph.edges]
    if graph.frozen:
        text = f"{len(graph.frozen)} frozen parameter tensors: in no graph"
        lines.append(f"  frozen [label={_quoted(text)} {FROZEN}];")
    return HEADER + "\n".join(lines) + "\n}\n"


def stage_dot(blocks: Sequence[Block], *, title: str) -> str:
    lines = [
        f"  label={_quoted(title)} labelloc=t;",
        f'  loss [label="loss" {PLAIN}];',
        f'  images [label="images" {PLAIN}];',
    ]
    for index, block in enumerate(blocks):
        text = f"{block.stage}\n{caption(block)}\n{block.parameters:,} parameters, keeps {size(block.kept_bytes)}"
        lines.append(f"  s{index} [label={_quoted(text)} {TRAINABLE if block.trainable_tensors else FROZEN}];")
    lowest = lowest_reached(blocks)
    names = ["images", *(f"s{index}" for index in range(len(blocks))), "loss"]
    for index, (earlier, later) in enumerate(pairwise(names)):
        # `index` counts the stages before this arrow; backward runs along it from `later` to `earlier`.
        if index > lowest:
            style = f'color="{WARM_LINE}" penwidth=3'
        elif index == lowest and lowest > 0:
            style = f'color="{ICE_LINE}" style=dashed arrowhead=tee label="frost line"'
        else:
            style = f'color="{ICE_LINE}" style=dashed arrowhead=none'
        lines.append(f"  {later} -> {earlier} [{style}];")
    return HEADER + "\n".join(lines) + "\n}\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
