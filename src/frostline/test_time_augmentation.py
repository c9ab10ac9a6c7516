"""Test-time augmentation: probabilities as a mean over views of each image. No torch: the config has the names."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

TestTimeAugmentation = Literal["none", "flip", "dihedral"]

# The views of each: quarter turns, and whether mirrored left to right.
VIEWS: Mapping[TestTimeAugmentation, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flip": ((0, False), (0, True)),
    "dihedral": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}
DESCRIPTION = (
    "predict the mean of the probabilities of each image and its mirror image (`flip`), or of its eight mirror images "
    "and quarter turns (`dihedral`, for images without an upper side); takes two or eight times as long"
)


def mean_logits(logits: "Callable[[Tensor], Tensor]", images: "Tensor", name: TestTimeAugmentation) -> "Tensor":
    """Logits (batch, classes) whose softmax is the mean of the softmax over the views: the logarithm of that mean.

    Args:
        logits: of images.
        images: (batch, 3, height, width).
    """
    if name == "none":
        return logits(images)
    logs = [logits(_view(images, *view)).float().log_softmax(dim=1) for view in VIEWS[name]]
    return functools.reduce(lambda one, other: one.logaddexp(other), logs) - math.log(len(logs))


def _view(images: "Tensor", turns: int, mirrored: bool) -> "Tensor":
    turned = images.rot90(turns, (-2, -1))
    return turned.flip(-1) if mirrored else turned


def views_text(name: TestTimeAugmentation) -> str:
    """A line that says what was done."""
    return f"test-time augmentation {name}: the mean of the probabilities of {len(VIEWS[name])} views of each image"
