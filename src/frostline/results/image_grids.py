"""Images in a grid: the most confident mistakes, and what the network saw in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from frostline.figures import ICE_INK, MUTED, WARM_INK, fitted, styled

COLUMNS = 4
SEEN = 12  # training images in the grid
WIDTH, SIZE = 138.0, 8.0  # points of a line below an image, and of its font


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image (3, height, width) with its name, and what the network took it for with which probability."""

    image: Tensor
    name: str
    true: str
    predicted: str
    probability: float


@styled
def draw_mistakes(mistakes: Sequence[Mistake], *, title: str) -> Figure:
    """A grid of images as the network got them, each with its file, its true and its predicted class."""
    figure, cells = _grid(len(mistakes), title=title, lines=3)
    for axes, found in zip(cells, mistakes, strict=False):
        _show(axes, found.image)
        predicted = f"predicted, {100 * found.probability:.0f} %: "
        _below(axes, 0, "", found.name, MUTED)
        _below(axes, 1, "true: ", found.true, ICE_INK)
        _below(axes, 2, predicted, found.predicted, WARM_INK)
    if not mistakes:
        figure.text(0.01, 0.4, "No mistake among these images.", color=MUTED, fontsize=11)
    return figure


@styled
def draw_seen(images: Tensor, targets: Tensor, classes: Sequence[str]) -> Figure:
    """A grid of the first training images after augmentation, each with its class; of a mixed image, the two largest
    shares.

    Args:
        images: uint8 or floats in [0, 1] (images, 3, height, width).
        targets: int64 (images,), or float (images, classes).
    """
    images, targets = images[:SEEN], targets[:SEEN]
    title = f"What the network sees: training images after augmentation, {images.shape[-1]} px"
    figure, cells = _grid(len(images), title=title, lines=2 if targets.ndim == 2 else 1)
    for axes, image, target in zip(cells, images, targets, strict=False):
        _show(axes, image)
        shares = _shares(target)
        for place, (index, share) in enumerate(shares):
            _below(axes, place, f"{100 * share:.0f} % " if len(shares) > 1 else "", classes[index], ICE_INK)
    return figure


def _shares(target: Tensor) -> list[tuple[int, float]]:
    """The class and its share, or of a mixed image the two largest ones."""
    if not target.ndim:
        return [(int(target), 1.0)]
    values, places = target.topk(min(2, len(target)))
    return [(place, value) for place, value in zip(places.tolist(), values.tolist(), strict=True) if value >= 0.005]


def _grid(images: int, *, title: str, lines: int) -> tuple[Figure, list[Any]]:
    rows = -(-images // COLUMNS)
    height = 1.7 + 0.17 * lines
    figure = Figure(figsize=(8, max(1.0, rows * height + 0.5)))
    top = 1 - 0.45 / figure.get_figheight()
    figure.text(0.01, 1 - 0.3 / figure.get_figheight(), title, fontsize=12, fontweight="bold", parse_math=False)
    if not rows:
        return figure, []
    figure.subplots_adjust(
        left=0.01, right=0.99, top=top, bottom=0.2 * lines / figure.get_figheight(), wspace=0.03, hspace=0.17 * lines
    )
    cells = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes in cells:
        axes.axis("off")
    return figure, cells


def _show(axes: Any, image: Tensor) -> None:
    shown = image if image.dtype == torch.uint8 else image.float().clamp(0, 1)
    axes.imshow(shown.permute(1, 2, 0).numpy(), interpolation="nearest")


def _below(axes: Any, place: int, begin: str, name: str, colour: str) -> None:
    text = begin + fitted(name, points=WIDTH - 4.4 * len(begin), size=SIZE)
    axes.annotate(
        text, (0.5, 0), xycoords="axes fraction", xytext=(0, -3 - 11 * place), textcoords="offset points", ha="center",
        va="top", fontsize=SIZE, color=colour, parse_math=False,
    )  # fmt: skip
