"""A figure to draw on in pixels: boxes, lines and single-line labels in a typeface whose width is known."""

from collections.abc import Sequence
from typing import Any

from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from frostline.figures import ICE_LINE, INK, MUTED, PAPER

ADVANCE = 0.602  # em per character of DejaVu Sans Mono, the widest of the monospaced faces in use
POINT = 0.75  # points per pixel of 1/96 inch
DASHES = (0, (4, 3))

Line = tuple[Sequence[tuple[float, float]], str, float, Any]  # points, colour, width in points, style


def text_width(text: str, size: float = 13) -> float:
    """In pixels."""
    return len(text) * size * ADVANCE


class Canvas:
    """Coordinates and sizes in pixels, y downwards; title and summary at the top left.

    Boxes and lines are gathered into one artist of each kind: an artist for each takes seconds for a ResNet-152.
    """

    def __init__(self, width: float, height: float, *, title: str, summary: str) -> None:
        self._figure = Figure(figsize=(width / 96, height / 96), dpi=96, facecolor=PAPER)
        self._axes = self._figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()
        self._boxes: list[FancyBboxPatch] = []
        self._lines: list[Line] = []
        self._marks: dict[Any, list[tuple[float, float, str, float]]] = {}
        self.text(30, 40, title, size=20, bold=True)
        self.text(30, 66, summary, colour=MUTED)

    def figure(self) -> Figure:
        """The finished figure."""
        self._axes.add_collection(PatchCollection(self._boxes, match_original=True), autolim=False)
        points, colours, widths, styles = zip(*self._lines, strict=True)
        lines = LineCollection(points, colors=colours, linewidths=widths, linestyles=list(styles), capstyle="round")
        self._axes.add_collection(lines, autolim=False)
        for marker, marks in self._marks.items():
            xs, ys, colours, sizes = zip(*marks, strict=True)
            areas = [(size * POINT) ** 2 for size in sizes]
            self._axes.scatter(xs, ys, areas, colours, marker=marker, linewidths=1.6 * POINT, zorder=2)
        return self._figure

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str, line: str, dashed: bool = False
    ) -> None:
        shape, style = "round,pad=0,rounding_size=6", DASHES if dashed else "-"
        self._boxes.append(FancyBboxPatch((x, y), width, height, shape, fc=fill, ec=line, lw=1.5 * POINT, ls=style))

    def line(
        self, *points: tuple[float, float], colour: str, thickness: float = 1.5, dashed: bool = False, head: str = ""
    ) -> None:
        """Through points; head: matplotlib's marker at the last of them."""
        self._lines.append((points, colour, thickness * POINT, DASHES if dashed else "-"))
        if head:
            self.mark(*points[-1], head, colour=colour, size=7)

    def mark(self, x: float, y: float, marker: str | tuple[int, int, int], *, colour: str, size: float) -> None:
        """One of matplotlib's markers, for instance "o", "<" or the snowflake (6, 2, 0)."""
        self._marks.setdefault(marker, []).append((x, y, colour, size))

    def snowflake(self, x: float, y: float, size: float = 20) -> None:
        self.mark(x, y, (6, 2, 0), colour=ICE_LINE, size=size)

    def text(
        self, x: float, y: float, text: str, *, size: float = 13, colour: str = INK, align: str = "left",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """A label; y is its baseline."""
        weight = "bold" if bold else "normal"
        # Names may hold a `$`, which is no formula.
        font: dict[str, Any] = {"fontsize": size * POINT, "family": "monospace", "weight": weight, "parse_math": False}
        self._axes.text(x, y, text, color=colour, ha=align, **font)
