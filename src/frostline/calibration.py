"""Temperature scaling (Guo et al., 2017, arXiv 1706.04599): one number that all logits are divided by, so that
probabilities are as high as the share of images that is right. The most probable class stays the same."""

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from frostline.metrics import calibration_error, confidence_bins


def fit_temperature(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """The temperature of the lowest negative log-likelihood (NLL), and its standard error.

    The NLL is convex in the inverse temperature, so its slope is bisected. The standard error is that of maximum
    likelihood: 1 / sqrt(images · curvature), carried over from the inverse.

    Args:
        logits: (images, classes) of images that the network was not trained on.
        labels: their classes, int64 (images,).

    Raises:
        ValueError: no temperature is best: every image is right, or the logits say no more than chance.
    """
    logits = logits.double()
    of_label = logits.gather(1, labels[:, None]).squeeze(1)
    if (of_label == logits.amax(dim=1)).all():
        raise ValueError(
            f"all of the {len(labels):,} images are right, so the lower the temperature, the better it fits: none is "
            "the best, and the probabilities stay as they are. A temperature needs images that the network mistakes: "
            "take more of them, or harder ones"
        )
    if (logits.mean(dim=1) - of_label).mean() >= 0:
        raise ValueError(
            f"on the {len(labels):,} images the logits say no more than chance, so the higher the temperature, the "
            "better it fits: none is the best, and the probabilities stay as they are. Train longer first"
        )

    def moments(inverse: float) -> tuple[float, float]:
        """Slope and curvature of the mean NLL by the inverse temperature."""
        shares = (logits * inverse).softmax(dim=1)
        mean = (shares * logits).sum(dim=1)
        variance = (shares * (logits - mean[:, None]) ** 2).sum(dim=1)
        return float((mean - of_label).mean()), float(variance.mean())

    low, high = 0.0, 1.0
    while moments(high)[0] < 0:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if moments(middle)[0] < 0 else (low, middle)
    temperature = 1 / high
    return temperature, temperature**2 / math.sqrt(len(labels) * moments(high)[1])


def temperature_text(calibration: Mapping[str, Any]) -> str:
    """What a checkpoint holds under `calibration`, in a few words."""
    [(split, found), *_] = calibration["results"].items()
    return f"temperature {calibration['temperature']:.4g}, fitted on {found['images']:,} {split} images"


def quality(logits: Tensor, labels: Tensor, *, temperature: float) -> dict[str, float]:
    """`nll` and `calibration_error` of the probabilities at a temperature; arguments as `fit_temperature`'s."""
    scaled = logits.double() / temperature
    sure, predicted = scaled.softmax(dim=1).max(dim=1)
    error = calibration_error(confidence_bins(sure, predicted == labels))
    return {"nll": float(F.cross_entropy(scaled, labels)), "calibration_error": float(error)}
