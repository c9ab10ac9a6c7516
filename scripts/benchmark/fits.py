"""Curves fitted to measured series, by relative errors: a point at 1 ms counts as much as one at 1 s."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Power:
    """y = factor · x^exponent, by least squares between logarithms.

    Attributes:
        worst: the largest relative distance of a point from the curve.
    """

    exponent: float
    factor: float
    worst: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.factor * x**self.exponent


@dataclass(frozen=True)
class Line:
    """y = start + slope · x, by least squares of relative errors; `worst` as in `Power`."""

    start: float
    slope: float
    worst: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.start + self.slope * x


def power(x: Sequence[float], y: Sequence[float]) -> Power:
    """Fit a power of x to positive values."""
    exponent, offset = np.polyfit(np.log(x), np.log(y), 1)
    found = Power(float(exponent), float(np.exp(offset)), 0.0)
    return Power(found.exponent, found.factor, _worst(found(np.asarray(x, dtype=float)), y))


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit a straight line to positive values."""
    slope, start = np.polyfit(np.asarray(x, dtype=float), y, 1, w=1 / np.asarray(y, dtype=float))
    found = Line(float(start), float(slope), 0.0)
    return Line(found.start, found.slope, _worst(found(np.asarray(x, dtype=float)), y))


def _worst(fitted: np.ndarray, measured: Sequence[float]) -> float:
    return float(np.max(np.abs(fitted / np.asarray(measured, dtype=float) - 1)))
