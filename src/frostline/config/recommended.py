"""The rule behind `auto`: what is frozen, how fast and how long a run trains, from what is known before it.

docs/defaults.md has the rule with its reasons, and what `scripts/freezing/defaults.py` measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Auto = Literal["auto"]
AUTO: Auto = "auto"

# Group and key of what may be `auto` until the data and the weights are known.
KEYS = (("freeze", "name"), ("optimizer", "lr"), ("trainer", "max_epochs"), ("data", "batch_size"))

LARGEST_BATCH = 32
# So that an epoch of few images has several steps, and no large part of them is left out.
LEAST_BATCHES = 4
FEWEST_EPOCHS, MOST_EPOCHS = 4, 100
# Below this, a run has hardly begun to learn.
FEW_STEPS = 100
FEW_IMAGES = 2000


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to freeze, and for how long to train at least.

    Attributes:
        pretrained: whether the network starts from trained weights.
        up_to: training images up to which this holds; None: any number.
        freeze: the policy's name.
        steps: optimizer steps.
        reason: as a run prints it.
    """

    pretrained: bool
    up_to: int | None
    freeze: str
    steps: int
    reason: str


TABLE = (
    Recommendation(pretrained=False, up_to=None, freeze="none", steps=150, reason="random weights: every layer learns"),
    Recommendation(
        pretrained=True,
        up_to=FEW_IMAGES,
        freeze="to_layer3",
        steps=150,
        reason="pretrained, few images: the last stage and the head learn",
    ),
    Recommendation(
        pretrained=True,
        up_to=None,
        freeze="discriminative",
        steps=150,
        reason="pretrained, many images: every layer learns, the early ones at lower rates",
    ),
)
# SGD's full learning rate, with momentum 0.9. Pretrained: what trains early layers at 0.05 loses them; a head alone, or
# early layers at a fraction of the rate, bear it.
RANDOM_RATE, PRETRAINED_RATE = 0.05, 0.01
HIGHER_RATES: Mapping[str, float] = {"backbone": 0.05, "discriminative": 0.05}


def keys_left(config: Any) -> list[tuple[str, str]]:
    """Group and key of what is still `auto` in the config of a run."""
    return [(group, key) for group, key in KEYS if getattr(getattr(config, group), key, None) == AUTO]


def recommended(*, pretrained: bool, images: int) -> Recommendation:
    """The row of the table for a number of training images."""
    fitting = (row for row in TABLE if row.pretrained == pretrained)
    return next(row for row in fitting if row.up_to is None or images <= row.up_to)


def learning_rate_for(policy: str, *, pretrained: bool) -> float:
    """SGD's full learning rate under a policy."""
    return HIGHER_RATES.get(policy, PRETRAINED_RATE) if pretrained else RANDOM_RATE


def batch_size_for(images: int, *, processes: int) -> int:
    """The largest power of two up to 32 of which an epoch has several, but two images for each process."""
    size = LARGEST_BATCH
    while images and size > 2 and size * LEAST_BATCHES > images:
        size //= 2
    return max(2, size // processes) * processes


def epochs_for(steps: int, *, steps_per_epoch: int) -> int:
    """Passes over the images that take at least so many optimizer steps, within bounds."""
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, -(-steps // steps_per_epoch)))
