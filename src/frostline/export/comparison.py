"""An exported file against the network that it was made from: the same classes, the largest difference, the time."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.export.formats import PreparedNetwork, Run

WARM_UP, TIMED = 3, 20  # runs of a single image


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """images: how many were compared. largest_difference: of two logits. milliseconds: median of one image, by the
    file and by the network in PyTorch."""

    images: int
    largest_difference: float
    milliseconds: float
    milliseconds_before: float


@torch.inference_mode()
def compare(model: PreparedNetwork, exported: Run, images: Tensor) -> Comparison:
    """Compare an exported model with the network on images (n, 3, height, width), float32 in [0, 1].

    They go through the file in one batch and one by one, as it takes any number.

    Raises:
        ValueError: the most probable class of an image is another one.
    """
    largest = 0.0
    for size in (len(images), 1):
        expected, found = (torch.cat([run(part) for part in images.split(size)]) for run in (model, exported))
        largest = max(largest, float((found - expected).abs().max()))
        others = (found.argmax(dim=1) != expected.argmax(dim=1)).nonzero().flatten().tolist()
        if others or not found.isfinite().all():
            raise ValueError(
                f"the exported model gives another class than the network on {len(others)} of {len(images)} images "
                f"(largest difference of a logit: {largest:.2g}); nothing was written"
            )
    before, after = _milliseconds((model, exported), images[:1])
    return Comparison(images=len(images), largest_difference=largest, milliseconds=after, milliseconds_before=before)


def _milliseconds(runs: Sequence[Run], image: Tensor) -> list[float]:
    """Median of each, taken in turns, so that other work on the machine slows down all alike."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(WARM_UP + TIMED):
        for run, taken in zip(runs, seconds, strict=True):
            begin = time.perf_counter()
            run(image)
            taken.append(time.perf_counter() - begin)
    return [1000 * statistics.median(taken[WARM_UP:]) for taken in seconds]
