"""Training curves from metrics.csv: loss, accuracy and learning rate, with the phases of the freezing policy."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from frostline.figures import ICE_INK, ICE_LINE, INK, MUTED, WARM_INK, WARM_LINE, fitted, styled, titled

Curve = Mapping[int, float]
"""Optimizer step -> value."""

# A line for each: column of metrics.csv, label, colour, width.
LOSS = (
    ("train/loss", "train, each logged step", WARM_LINE, 0.7),
    ("train/loss_epoch", "train, mean of the epoch", WARM_INK, 1.8),
    ("val/loss", "val", ICE_LINE, 1.8),
)
ACCURACY = (("train/accuracy", "train", WARM_INK, 1.8), ("val/accuracy", "val", ICE_LINE, 1.8))


def read_curves(path: Path) -> dict[str, Curve]:
    """The columns of metrics.csv, by step.

    Where a resumed run went over a step again, the later value counts.
    """
    curves: dict[str, dict[int, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row.get("step"):
                continue
            step = int(float(row["step"]))
            for name, text in row.items():
                if text and name not in ("step", "epoch"):
                    curves.setdefault(name, {})[step] = float(text)
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def applied_rates(curves: Mapping[str, Curve]) -> tuple[Curve, Curve]:
    """At each logged step the highest and the lowest learning rate of the stages that train."""
    stages = [curve for name, curve in curves.items() if name.startswith("freezing/lr/")]
    steps = sorted({step for curve in stages for step in curve})
    rates = {step: [curve[step] for curve in stages if curve.get(step)] for step in steps}
    trained = {step: values for step, values in rates.items() if values}
    return (
        {step: max(values) for step, values in trained.items()},
        {step: min(values) for step, values in trained.items()},
    )


def phase_begins(curves: Mapping[str, Curve], names: Sequence[str]) -> list[tuple[int, str]]:
    """First step and name of each phase that began, by the policy's names in order; a resume begins none."""
    begun = sorted(curves.get("freezing/phase", {}).items())
    indices = [int(index) for _, index in begun]
    return [
        (step, names[index])
        for (step, _), index, before in zip(begun, indices, [None, *indices], strict=False)
        if index != before
    ]


@styled
def draw_curves(curves: Mapping[str, Curve], phases: Sequence[tuple[int, str]], *, title: str) -> Figure:
    """Loss, accuracy and learning rate over the optimizer steps, one below the other.

    Args:
        phases: see `phase_begins`.
    """
    figure = Figure(figsize=(8, 7.2), layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    titled(figure, title)
    for name, label, colour, width in LOSS:
        _line(loss, curves.get(name, {}), label=label, color=colour, linewidth=width)
    for name, label, colour, width in ACCURACY:
        shares = {step: 100 * value for step, value in curves.get(name, {}).items()}
        _line(accuracy, shares, label=label, color=colour, linewidth=width)
    highest, lowest = applied_rates(curves)
    _line(rate, highest, label="highest of the stages that train", color=WARM_LINE, linewidth=1.6)
    if lowest != highest:
        _line(rate, lowest, label="lowest", color=ICE_LINE, linewidth=1.6)
    for axes, label in ((loss, "loss"), (accuracy, "accuracy, %"), (rate, "learning rate")):
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
        else:
            axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color=MUTED)
        for step, _ in phases[1:]:
            axes.axvline(step, color=ICE_INK, linewidth=1, linestyle="--")
    rate.set_xlabel("optimizer step")
    rate.set_xlim(left=0)
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_phases(loss, phases)
    return figure


def _line(axes: Any, curve: Curve, **style: Any) -> None:
    finite = {step: value for step, value in curve.items() if math.isfinite(value)}
    if finite:
        # A single point has no line.
        axes.plot(list(finite), list(finite.values()), marker="o" if len(finite) < 40 else None, ms=3, **style)


def _name_phases(axes: Any, phases: Sequence[tuple[int, str]]) -> None:
    """The phases' names above the axes, each from its first step on; a long policy's alternate in height."""
    if len(phases) < 2:
        return
    for place, (step, name) in enumerate(phases):
        height = 1.02 + 0.08 * (place % 2)
        text = ("| phase " if place else "phase ") + fitted(name, points=130, size=8)
        axes.text(
            step, height, text, transform=axes.get_xaxis_transform(), fontsize=8, color=ICE_INK if place else INK,
            parse_math=False,
        )  # fmt: skip
