"""Moving averages of weights that leave frozen tensors exactly as they are.

An average of equal numbers is that number, but not in floating point: 0.999 * w + 0.001 * w rounds, so that Lightning's
EMAWeightAveraging moves even weights that never train (measured: 24 steps, every frozen convolution differs).
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel


def average_exactly(trainer: "pl.Trainer") -> None:
    """Make every WeightAveraging callback of a run average equal numbers to themselves."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        averaged: Any = getattr(callback, "_average_model", None)
        if isinstance(callback, WeightAveraging) and isinstance(averaged, AveragedModel):
            average: Any = averaged.avg_fn
            if average is not None and not isinstance(average, ExactAverage):
                averaged.avg_fn = ExactAverage(average)


def averages_weights(trainer: "pl.Trainer") -> bool:
    """Whether what comes out of the run is an average over its steps."""
    kinds = (StochasticWeightAveraging, WeightAveraging)
    return any(isinstance(entry, kinds) for entry in trainer.callbacks)  # type: ignore[attr-defined]


class ExactAverage:
    """An averaging function for `AveragedModel` that keeps what is equal already."""

    def __init__(self, average: Callable[[Tensor, Tensor, Any], Tensor]) -> None:
        self.average = average

    def __call__(self, averaged: Tensor, current: Tensor, count: Any) -> Tensor:
        blended = self.average(averaged, current, count).to(averaged.dtype)
        return torch.where(averaged == current, averaged, blended)
