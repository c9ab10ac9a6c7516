"""The labels and boxes of a figure, as matplotlib lays them out, in pixels with y downwards."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

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
    return _boxes(figure, [text for text in figure.axes[0].texts if text.get_text()])


def rectangles(figure: Figure) -> list[Box]:
    return _boxes(figure, figure.axes[0].patches)


def _boxes(figure: Figure, artists: Sequence[Text | Patch]) -> list[Box]:
    renderer, height, boxes = FigureCanvasAgg(figure).get_renderer(), canvas(figure).bottom, []
    for artist in artists:
        with matplotlib.rc_context(STYLE):
            found = artist.get_window_extent(renderer)
        text = artist.get_text() if isinstance(artist, Text) else ""
        boxes.append(Box(found.x0, height - found.y1, found.x1, height - found.y0, text))
    return boxes


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
