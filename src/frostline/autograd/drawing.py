"""Draw an autograd graph: `draw` for any tensor, `draw_operations` and `draw_stages` for an observed network."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from torch import nn

from frostline.autograd.blocks import blocks_of
from frostline.autograd.dot import operation_dot, stage_dot, write_png
from frostline.autograd.graph import Graph, walk
from frostline.autograd.observe import Observation
from frostline.autograd.operation_view import operation_svg
from frostline.autograd.stage_view import stage_svg
from frostline.storage.atomic import atomically, write_text
from frostline.tables import size

FORMATS = (".svg", ".html", ".dot", ".png")


@dataclass(frozen=True)
class Drawing:
    """A finished picture. `summary` is one sentence that says in words what it shows; notebooks display the SVG."""

    title: str
    summary: str
    svg: str
    dot: str

    @property
    def html(self) -> str:
        """A page that needs nothing from anywhere else."""
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            "<style>body{margin:0 auto;max-width:1280px;overflow-x:auto}svg{display:block;margin:auto}</style></head>\n"
            f"<body>{self.svg}</body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the format that the ending names: .svg, .html, .dot, or .png, which Graphviz draws from the DOT.

        Raises:
            ValueError: another ending.
            FileNotFoundError: .png without Graphviz.
        """
        path = Path(path)
        if path.suffix not in FORMATS:
            raise ValueError(f"Cannot draw to `{path.name}`: the ending must be one of {', '.join(FORMATS)}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            with atomically(path) as part:
                write_png(self.dot, part)
        else:
            write_text(path, {".svg": self.svg, ".html": self.html, ".dot": self.dot}[path.suffix])
        return path

    def _repr_svg_(self) -> str:
        return self.svg


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
    return Drawing(
        title, summary, operation_svg(graph, title=title, summary=summary), operation_dot(graph, title=title)
    )


def draw_stages(observation: Observation, *, title: str = "Stages and the frost line") -> Drawing:
    """Draw an observed network by stage, with the path of the gradient down to the frost line."""
    blocks, summary = blocks_of(observation), summary_of(observation.graph)
    loss_bytes = observation.graph.kept_bytes - sum(block.kept_bytes for block in blocks)
    svg = stage_svg(blocks, title=title, summary=summary, loss_bytes=loss_bytes)
    return Drawing(title, summary, svg, stage_dot(blocks, title=title))


def summary_of(graph: Graph) -> str:
    """Nodes, leaves and kept bytes in one line."""
    leaves = "1 leaf gets a gradient" if len(graph.leaves) == 1 else f"{len(graph.leaves)} leaves get a gradient"
    if graph.frozen is not None and graph.unreached is not None:
        total = len(graph.parameters) + len(graph.frozen) + len(graph.unreached)
        leaves = f"{len(graph.parameters)} of {total} parameter tensors get a gradient"
    return f"{len(graph.nodes)} nodes; {leaves}; {size(graph.kept_bytes)} kept for backward"
