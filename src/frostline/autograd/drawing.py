"""Draw an autograd graph: `draw` for any tensor, `draw_operations` and `draw_stages` for an observed network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from frostline.autograd.blocks import blocks_of
from frostline.autograd.graph import Graph, walk
from frostline.autograd.observe import Observation
from frostline.autograd.operation_view import operation_dot, operation_figure
from frostline.autograd.stage_view import stage_dot, stage_figure
from frostline.figures import save_figure, svg_of
from frostline.storage.atomic import write_text
from frostline.tables import size

FORMATS = (".svg", ".dot", ".png")


@dataclass(frozen=True)
class Drawing:
    """A finished picture. `summary` describes it in one sentence; notebooks display the SVG."""

    title: str
    summary: str
    figure: Figure
    dot: str

    def _repr_svg_(self) -> str:
        return svg_of(self.figure)

    def save(self, path: str | Path) -> Path:
        """Write the format that the ending names: .svg, .png, or .dot for Graphviz.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        if path.suffix != ".dot":
            return save_figure(self.figure, path, formats=FORMATS)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.dot)
        return path


def draw(
    loss: torch.Tensor,
    *,
    network: nn.Module | None = None,
    names: Mapping[str, torch.Tensor] | None = None,
    title: str = "Autograd graph",
) -> Drawing:
    """Draw every node of the graph behind a tensor, of whatever function or network made it; before backward.

    `network` and `names` give the leaves their names.

    Raises:
        ValueError: the tensor has no graph.
    """
    return draw_operations(walk(loss, network=network, names=names), title=title)


def draw_operations(graph: Graph, *, title: str = "Autograd graph") -> Drawing:
    """Draw every node of a walked graph."""
    summary = summary_of(graph)
    figure = operation_figure(graph, title=title, summary=summary)
    return Drawing(title, summary, figure, operation_dot(graph, title=title))


def draw_stages(observation: Observation, *, title: str = "Stages and the frost line") -> Drawing:
    """Draw an observed network by stage, with the path of the gradient down to the frost line."""
    blocks, summary = blocks_of(observation), summary_of(observation.graph)
    loss_bytes = observation.graph.kept_bytes - sum(block.kept_bytes for block in blocks)
    figure = stage_figure(blocks, title=title, summary=summary, loss_bytes=loss_bytes)
    return Drawing(title, summary, figure, stage_dot(blocks, title=title))


def summary_of(graph: Graph) -> str:
    """Nodes, leaves and kept bytes in one line."""
    leaves = "1 leaf gets a gradient" if len(graph.leaves) == 1 else f"{len(graph.leaves)} leaves get a gradient"
    if graph.frozen is not None and graph.unreached is not None:
        total = len(graph.parameters) + len(graph.frozen) + len(graph.unreached)
        leaves = f"{len(graph.parameters)} of {total} parameter tensors get a gradient"
    return f"{len(graph.nodes)} nodes; {leaves}; {size(graph.kept_bytes)} kept for backward"
