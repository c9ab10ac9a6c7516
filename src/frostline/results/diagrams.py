"""Confusion matrix and calibration of an evaluation, as diagrams."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from frostline.figures import ICE_LINE, INK, MUTED, WARM_LINE, styled
from frostline.metrics import BINS, CalibrationError
from frostline.storage.names import printable_name

# Up to so many classes a cell has room for its count and share, for its count, or the axis for the class's name.
WITH_SHARES, WITH_COUNTS, WITH_NAMES = 12, 25, 45
PAIRS = 15  # pairs of classes that are listed where the cells hold no numbers
STRONGEST = 0.75  # of a cell's colour: the number on it stays readable, also where the ink is light


@styled
def draw_confusion(confusion: Tensor, classes: Sequence[str], *, title: str) -> Figure:
    """Images by true class (rows) and predicted class (columns), coloured by the share of the true class.

    With many classes, the pairs that are confused most are listed beside it.

    Args:
        confusion: int64 (classes, classes).
    """
    count, names = len(classes), [_short(name, 18) for name in classes]
    listed = count > WITH_COUNTS
    figure = Figure(figsize=(10.5 if listed else 8, 7.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    axes = figure.subplots(1, 2, width_ratios=(7, 3.2))[0] if listed else figure.subplots()
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    right = torch.eye(count, dtype=torch.bool)
    for cells, colour in ((right, ICE_LINE), (~right, WARM_LINE)):
        scale = LinearSegmentedColormap.from_list("share", [to_rgba(colour, 0), to_rgba(colour, STRONGEST)])
        # A few mistakes among many images have to be seen: colours grow with the root of the share.
        shown = torch.where(cells, shares, 0).sqrt()
        axes.imshow(shown.numpy(), cmap=scale, vmin=0, vmax=1, interpolation="nearest")
    if count <= WITH_COUNTS:
        _number_cells(axes, confusion, shares)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (images)")
    if count <= WITH_NAMES:
        size = 9 if count <= WITH_SHARES else 7
        images = confusion.sum(dim=1).tolist()
        style: dict[str, Any] = {"fontsize": size, "parse_math": False}
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor", **style)
        axes.set_yticks(range(count), [f"{name} ({n:,})" for name, n in zip(names, images, strict=True)], **style)
    else:
        axes.set_ylabel("true class, by its index")
        axes.set_xlabel("predicted class, by its index")
    legend = [
        Patch(color=ICE_LINE, alpha=STRONGEST, label="right, all of the class"),
        Patch(color=WARM_LINE, alpha=STRONGEST, label="mistaken, all of the class"),
    ]
    axes.legend(handles=legend, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    if listed:
        _list_pairs(figure.axes[1], confusion, names)
    return figure


def _number_cells(axes: Any, confusion: Tensor, shares: Tensor) -> None:
    with_shares = len(confusion) <= WITH_SHARES
    for row, column in confusion.nonzero().tolist():
        share = f"\n{100 * shares[row, column]:.0f} %" if with_shares else ""
        text = f"{confusion[row, column]:,}{share}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8 if with_shares else 6.5)


def _list_pairs(axes: Any, confusion: Tensor, names: Sequence[str]) -> None:
    axes.axis("off")
    mistakes = confusion.clone().fill_diagonal_(0)
    most = mistakes.flatten().argsort(descending=True, stable=True)[:PAIRS].tolist()
    pairs = [(place // len(names), place % len(names)) for place in most]
    found = [(f"{names[a]} ({a})", f"{names[b]} ({b})", int(mistakes[a, b])) for a, b in pairs if mistakes[a, b]]
    lines = [f"{images:>4} × {true}\n         as {predicted}" for true, predicted, images in found]
    text = "Confused most\n\n" + ("\n".join(lines) or "no mistake")
    axes.text(0, 1, text, va="top", fontsize=8.5, transform=axes.transAxes, parse_math=False, linespacing=1.25)


@styled
def draw_calibration(confidence: Tensor, right: Tensor, *, title: str) -> Figure:
    """How many of the images are right that the network is sure of by so much; below, how many images that are.

    Args:
        confidence: probability of the predicted class, in [0, 1] (images,).
        right: whether that is the true class, bool (images,).
    """
    metric = CalibrationError()
    metric.sync_on_compute = False  # of all ranks' images, computed on one rank: a sum over ranks would wait for ever
    metric.update(confidence[:, None], (~right).long())  # one column: class 0 is the predicted one
    images, sure, correct = (values.numpy() for values in (metric.images, metric.confidence, metric.right))
    filled = images > 0
    left = torch.arange(BINS).numpy() / BINS
    middle, width = left + 0.5 / BINS, 0.92 / BINS
    accuracy, mean = correct[filled] / images[filled], sure[filled] / images[filled]
    figure = Figure(figsize=(8, 7), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    shares.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="perfectly calibrated")
    shares.bar(middle[filled], accuracy, width=width, color=ICE_LINE, label="share that is right")
    shares.bar(
        middle[filled], mean - accuracy, bottom=accuracy, width=width, color=WARM_LINE, alpha=0.4, edgecolor=WARM_LINE,
        label="gap to the mean confidence",
    )  # fmt: skip
    shares.set_ylabel("share of the images that is right")
    shares.set_ylim(0, 1.02)
    shares.set_xlim(0, 1)
    gaps = f"calibration error (ECE, {BINS} bins): {100 * metric.compute():.2f} %"
    overall = f"right: {100 * right.double().mean():.2f} %, mean confidence: {100 * confidence.double().mean():.2f} %"
    shares.set_title(f"{gaps}\n{overall}", loc="left", fontsize=9, color=MUTED)
    shares.legend(frameon=False, fontsize=9, loc="upper left")
    counts.bar(middle, images, width=width, color=ICE_LINE)
    counts.set_ylabel(f"images (of {len(right):,})")
    counts.set_xlabel("confidence: probability of the predicted class")
    for axes in (shares, counts):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    return figure


def _short(name: str, longest: int) -> str:
    text = printable_name(name)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
