"""The labels and boxes of a figure, as matplotlib lays them out, in pixels with y downwards."""

from itertools import combinations
from typing import NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from frostline.figures import STYLE


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float
    text: str = ""

    def meets(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: "Box") -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


def canvas(figure: Figure) -> Box:
    return Box(0, 0, figure.bbox.width, figure.bbox.height)


def labels(figure: Figure) -> list[Box]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    with matplotlib.rc_context(STYLE):
        return [
            _box(figure, text.get_window_extent(renderer), text.get_text())
            for text in figure.axes[0].texts
            if text.get_text()
        ]


def rectangles(figure: Figure) -> list[Box]:
    [boxes] = [found for found in figure.axes[0].collections if isinstance(found, PatchCollection)]
    extents = [path.get_extents(figure.axes[0].transData) for path in boxes.get_paths()]
    return [_box(figure, extent) for extent in extents]


def _box(figure: Figure, extent: Bbox, text: str = "") -> Box:
    height = canvas(figure).bottom
    return Box(extent.x0, height - extent.y1, extent.x1, height - extent.y0, text)


def faults(figure: Figure) -> list[str]:
    """Every way in which labels collide: with each other, with the edge of a box, with the border of the picture."""
    texts, shapes, whole = labels(figure), rectangles(figure), canvas(figure)
    found = [f"{one.text!r} overlaps {other.text!r}" for one, other in combinations(texts, 2) if one.meets(other)]
    found += [
        f"{text.text!r} crosses a box"
        for text in texts
        for shape in shapes
        if text.meets(shape) and not text.within(shape)
    ]
    found += [f"{text.text!r} leaves the picture" for text in texts if not text.within(whole)]
    return found + [f"{one} and {other} overlap" for one, other in combinations(shapes, 2) if one.meets(other)]
