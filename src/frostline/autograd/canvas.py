"""A figure to draw on in pixels: boxes, lines and single-line labels in a typeface whose width is known."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from frostline.figures import ICE_LINE, INK, MUTED, PAPER

ADVANCE = 0.602  # em per character of DejaVu Sans Mono, the widest of the monospaced faces in use
POINT = 0.75  # points per pixel of 1/96 inch


def text_width(text: str, size: float = 13) -> float:
    """In pixels."""
    return len(text) * size * ADVANCE


class Canvas:
    """Coordinates and sizes in pixels, y downwards; title and summary at the top left."""

    def __init__(self, width: float, height: float, *, title: str, summary: str) -> None:
        self.figure = Figure(figsize=(width / 96, height / 96), dpi=96, facecolor=PAPER)
        self._axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()
        self.text(30, 40, title, size=20, bold=True)
        self.text(30, 66, summary, colour=MUTED)

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str, line: str, dashed: bool = False
    ) -> None:
        style, dash = "round,pad=0,rounding_size=6", (0, (4, 3)) if dashed else "-"
        box = FancyBboxPatch((x, y), width, height, style, fc=fill, ec=line, lw=1.5 * POINT, ls=dash)
        self._axes.add_patch(box)

    def line(
        self, *points: tuple[float, float], colour: str, thickness: float = 1.5, dashed: bool = False, head: str = ""
    ) -> None:
        """Through points; head: matplotlib's marker at the last of them."""
        dash = (0, (4, 3)) if dashed else "-"
        xs, ys = zip(*points, strict=True)
        self._axes.plot(xs, ys, color=colour, lw=thickness * POINT, ls=dash, solid_capstyle="round")
        if head:
            self.mark(*points[-1], head, colour=colour, size=7)

    def mark(self, x: float, y: float, marker: str | Sequence[int], *, colour: str, size: float) -> None:
        """One of matplotlib's markers, for instance "o", "<" or the snowflake (6, 2, 0)."""
        self._axes.plot([x], [y], marker=marker, ms=size * POINT, mfc=colour, mec=colour, mew=1.6 * POINT, ls="")

    def snowflake(self, x: float, y: float, size: float = 20) -> None:
        self.mark(x, y, (6, 2, 0), colour=ICE_LINE, size=size)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        colour: str = INK,
        align: str = "left",
        bold: bool = False,
    ) -> None:
        """A label; y is its baseline."""
        weight = "bold" if bold else "normal"
        # Names may hold a `$`, which is no formula.
        font: dict[str, Any] = {"fontsize": size * POINT, "family": "monospace", "weight": weight, "parse_math": False}
        self._axes.text(x, y, text, color=colour, ha=align, **font)
