"""Reading an SVG back: the boxes of its labels and rectangles, computed from the drawing alone."""

import xml.etree.ElementTree as ElementTree
from itertools import combinations
from typing import NamedTuple

from frostline.autograd.svg import text_width

SVG = "{http://www.w3.org/2000/svg}"


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


def labels(svg: str) -> list[Box]:
    boxes = []
    for label in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        size, x, y = float(label.get("font-size")), float(label.get("x")), float(label.get("y"))
        width = text_width(label.text, size)
        left = x - {"start": 0, "middle": width / 2, "end": width}[label.get("text-anchor")]
        # Ascent and descent of DejaVu Sans Mono's letters, without the space between lines.
        boxes.append(Box(left, y - 0.76 * size, left + width, y + 0.24 * size, label.text))
    return boxes


def rectangles(svg: str) -> list[Box]:
    boxes = []
    for shape in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        if shape.get("x") is not None:  # the background has none
            x, y, width, height = (float(shape.get(key)) for key in ("x", "y", "width", "height"))
            boxes.append(Box(x, y, x + width, y + height))
    return boxes


def canvas(svg: str) -> Box:
    root = ElementTree.fromstring(svg)
    return Box(0, 0, float(root.get("width")), float(root.get("height")))


def faults(svg: str) -> list[str]:
    """Every way in which labels collide: with each other, with the edge of a box, with the border of the picture."""
    texts, shapes, whole = labels(svg), rectangles(svg), canvas(svg)
    found = [f"{one.text!r} overlaps {other.text!r}" for one, other in combinations(texts, 2) if one.meets(other)]
    found += [f"{text.text!r} crosses a box" for text in texts for shape in shapes if _crosses(text, shape)]
    found += [f"{text.text!r} leaves the picture" for text in texts if not text.within(whole)]
    return found + [f"{one} and {other} overlap" for one, other in combinations(shapes, 2) if one.meets(other)]


def _crosses(text: Box, shape: Box) -> bool:
    return text.meets(shape) and not text.within(shape)
