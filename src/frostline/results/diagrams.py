"""Confusion matrix and calibration of an evaluation, as diagrams."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from frostline.figures import ICE_INK, ICE_LINE, INK, MUTED, WARM_LINE, fitted, styled, titled
from frostline.metrics import BINS, calibration_error, confidence_bins

# Up to so many classes a cell can hold its count and share, or its count alone.
WITH_SHARES, WITH_COUNTS = 12, 25
PAIRS = 16  # pairs of classes that are listed below the matrix of many classes, in two columns
STRONGEST = 0.75  # of a cell's colour: the number on it stays readable, also where the ink is light
NAME = 100.0  # points for a class's name


@styled
def draw_confusion(true: Tensor, predicted: Tensor, classes: Sequence[str], *, title: str) -> Figure:
    """Images by true class (rows) and predicted class (columns), coloured by the share of the true class.

    Of many classes the matrix shows those with the most mistakes, and sums up the others in one row and one column; the
    pairs that are confused most are listed below it.

    Args:
        true, predicted: class of each image, int64 (images,).
    """
    shown = most_mistaken(true, predicted, classes=len(classes), most=WITH_COUNTS)
    others = len(classes) - len(shown)
    place = torch.full((len(classes),), len(shown)).scatter(0, shown, torch.arange(len(shown)))
    names, count = [classes[index] for index in shown.tolist()], len(shown)
    if others:
        names, count = [*names, f"{others:,} other classes"], count + 1
    confusion = (place[true] * count + place[predicted]).bincount(minlength=count**2).reshape(count, count)
    figure = Figure(figsize=(8, 10.4 if others else 7.6), layout="constrained")
    titled(figure, title)
    axes = figure.subplots(2, 1, height_ratios=(7.6, 2.4))[0] if others else figure.subplots()
    _draw_cells(axes, confusion, right=torch.eye(count, dtype=torch.bool), plain=count - 1 if others else None)
    size = 9 if count <= WITH_SHARES else 7
    images = confusion.sum(dim=1).tolist()
    labels = [fitted(name, points=NAME, size=size) for name in names]
    style: dict[str, Any] = {"fontsize": size, "parse_math": False}
    axes.set_xticks(range(count), labels, rotation=45, ha="right", rotation_mode="anchor", **style)
    axes.set_yticks(range(count), [f"{name} ({n:,})" for name, n in zip(labels, images, strict=True)], **style)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (images)")
    legend = [
        Patch(color=ICE_LINE, alpha=STRONGEST, label="right, all of the class"),
        Patch(color=WARM_LINE, alpha=STRONGEST, label="mistaken, all of the class"),
    ]
    axes.legend(handles=legend, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
    if others:
        _list_pairs(figure.axes[1], true, predicted, classes, shown=len(shown))
    return figure


def most_mistaken(true: Tensor, predicted: Tensor, *, classes: int, most: int) -> Tensor:
    """The classes that a matrix of at most so many rows shows, int64 and ascending: all of them where they fit in,
    else one fewer than rows: those that take part in the most mistakes."""
    if classes <= most:
        return torch.arange(classes)
    wrong = true != predicted
    mistakes = torch.cat([true[wrong], predicted[wrong]]).bincount(minlength=classes)
    return mistakes.argsort(descending=True, stable=True)[: most - 1].sort().values


def _draw_cells(axes: Any, confusion: Tensor, *, right: Tensor, plain: int | None) -> None:
    """Colours and numbers; `plain` is the row whose own cell holds right and mistaken images alike."""
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    coloured = torch.ones_like(right)
    if plain is not None:
        coloured[plain, plain] = False
    for cells, colour in ((right, ICE_LINE), (~right, WARM_LINE)):
        scale = LinearSegmentedColormap.from_list("share", [to_rgba(colour, 0), to_rgba(colour, STRONGEST)])
        # A few mistakes among many images have to be seen: colours grow with the root of the share.
        strength = torch.where(cells & coloured, shares, 0).sqrt()
        axes.imshow(strength.numpy(), cmap=scale, vmin=0, vmax=1, interpolation="nearest")
    with_shares = len(confusion) <= WITH_SHARES
    for row, column in confusion.nonzero().tolist():
        images = int(confusion[row, column])
        text = f"{images:,}\n{100 * shares[row, column]:.0f} %" if with_shares else _short_count(images)
        axes.text(column, row, text, ha="center", va="center", fontsize=8 if with_shares else 6.5)


def _short_count(images: int) -> str:
    return f"{images:,}" if images < 10_000 else f"{images / 1000:,.0f}k"


def _list_pairs(axes: Any, true: Tensor, predicted: Tensor, classes: Sequence[str], *, shown: int) -> None:
    axes.axis("off")
    wrong = true != predicted
    pairs, images = torch.stack([true[wrong], predicted[wrong]]).unique(dim=1, return_counts=True)
    most = images.argsort(descending=True, stable=True)[:PAIRS]
    listed = list(zip(pairs[:, most].T.tolist(), images[most].tolist(), strict=True))
    line: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 8.5, "va": "top", "parse_math": False}
    about = f"Shown are the {shown} classes with the most mistakes; the last row and column sum up the others."
    axes.text(0, 1, about, color=MUTED, **line)
    heading = f"Confused most, of {len(images):,} pairs (images: true → predicted)" if listed else "No mistake."
    axes.text(0, 0.9, heading, fontweight="bold", **line)
    for place, ((was, became), count) in enumerate(listed):
        left, top = 0.52 * (place >= PAIRS // 2), 0.79 - 0.1 * (place % (PAIRS // 2))
        names = " → ".join(fitted(classes[index], points=0.9 * NAME, size=8.5) for index in (was, became))
        axes.text(left, top, f"{count:,}: {names}", **line)


@styled
def draw_calibration(confidence: Tensor, right: Tensor, *, title: str) -> Figure:
    """How many of the images are right that the network is sure of by so much; below, how many images that are.

    Args:
        confidence: probability of the predicted class, in [0, 1] (images,).
        right: whether that is the true class, bool (images,).
    """
    bins = confidence_bins(confidence, right)
    images, sure, correct = bins.numpy()
    filled = images > 0
    left = torch.arange(BINS).numpy() / BINS
    middle, width = left + 0.5 / BINS, 0.92 / BINS
    accuracy, mean = correct[filled] / images[filled], sure[filled] / images[filled]
    figure = Figure(figsize=(8, 7), layout="constrained")
    titled(figure, title)
    shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    shares.bar(middle[filled], accuracy, width=width, color=ICE_LINE, label="share that is right")
    for gap, colour, label in (
        (mean - accuracy, WARM_LINE, "too sure: mean confidence above that share"),
        (accuracy - mean, ICE_INK, "not sure enough: mean confidence below it"),
    ):
        low = (mean if colour == ICE_INK else accuracy)[gap > 0]
        shares.bar(middle[filled][gap > 0], gap[gap > 0], bottom=low, width=width, color=colour, alpha=0.5, label=label)
    shares.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="perfectly calibrated")
    shares.set_ylabel("share of the images that is right")
    shares.set_ylim(0, 1.02)
    shares.set_xlim(0, 1)
    gaps = f"calibration error (ECE, {BINS} bins): {100 * calibration_error(bins):.2f} %"
    overall = f"right: {100 * right.double().mean():.2f} %, mean confidence: {100 * confidence.double().mean():.2f} %"
    shares.set_title(f"{gaps}\n{overall}", loc="left", fontsize=9, color=MUTED)
    shares.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1.12), ncols=2)
    counts.bar(middle, images, width=width, color=ICE_LINE)
    counts.set_ylabel(f"images (of {len(right):,})")
    counts.set_xlabel("confidence: probability of the predicted class")
    for axes in (shares, counts):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    return figure
