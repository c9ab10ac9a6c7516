"""What the gradient does in each parameter and stage: its size, its noise, and how far a step moves the weights."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from torch import nn

from frostline.freezing.selectors import stage_of, stages_of


@dataclass(frozen=True)
class Flow:
    """A parameter, or several put together: counts, and sums over the entries g of the gradients.

    tensors, trainable, receiving: parameter tensors; those that require a gradient; those that hold one.
    frozen_receiving: tensors that hold a gradient although they require none; a mistake.
    entries: of the gradients; squares, absolutes: Σg², Σ|g|; maximum: max|g|; zeros: entries that are exactly 0.
    weights: Σw² and moved: Σ(Δw)² over one optimizer step, of the tensors that hold a gradient; None if not measured.
    mean_squares, deviations: ‖ḡ‖² and Σ‖g_k - ḡ‖²/(k-1) over k batches; None if not measured.
    """

    name: str
    tensors: int = 0
    trainable: int = 0
    receiving: int = 0
    frozen_receiving: int = 0
    entries: int = 0
    squares: float = 0.0
    absolutes: float = 0.0
    maximum: float = 0.0
    zeros: int = 0
    weights: float | None = None
    moved: float | None = None
    mean_squares: float | None = None
    deviations: float | None = None

    @property
    def norm(self) -> float | None:
        """‖g‖, or None where there is no gradient; so too below."""
        return math.sqrt(self.squares) if self.entries else None

    @property
    def mean(self) -> float | None:
        """Mean of |g|."""
        return self.absolutes / self.entries if self.entries else None

    @property
    def largest(self) -> float | None:
        return self.maximum if self.entries else None

    @property
    def zero_share(self) -> float | None:
        return self.zeros / self.entries if self.entries else None

    @property
    def update_ratio(self) -> float | None:
        """‖Δw‖ / ‖w‖ of one optimizer step; None also where every weight was 0."""
        return math.sqrt(self.moved / self.weights) if self.moved is not None and self.weights else None

    @property
    def noise(self) -> float | None:
        """The gradient's standard deviation from batch to batch, over the norm of its mean.

        Its square times the batch size is the "simple" gradient noise scale of McCandlish et al., An Empirical Model
        of Large-Batch Training (2018).
        """
        return (
            math.sqrt(self.deviations / self.mean_squares)
            if self.deviations is not None and self.mean_squares
            else None
        )

    def scalars(self) -> dict[str, float]:
        """What there is to log, by stable names; nothing where no gradient is."""
        values = {
            "norm": self.norm,
            "mean": self.mean,
            "maximum": self.largest,
            "zeros": self.zero_share,
            "update_ratio": self.update_ratio,
            "noise": self.noise,
        }
        return {name: value for name, value in values.items() if value is not None}


def by_stage(network: nn.Module, flows: Iterable[Flow]) -> list[Flow]:
    """The parameters' flows put together by stage, in execution order."""
    stages = stages_of(network)
    gathered: dict[str, list[Flow]] = {stage: [] for stage in stages}
    for flow in flows:
        gathered[stage_of(flow.name, stages)].append(flow)
    return [combine(stage, members) for stage, members in gathered.items()]


def combine(name: str, flows: Iterable[Flow]) -> Flow:
    """Several flows as one: sums added, maxima compared. What only some of the receiving ones measured is left out."""
    return reduce(_add, flows, Flow(name))


def _add(left: Flow, right: Flow) -> Flow:
    optional: Mapping[str, float | None] = {
        key: _add_optional(left, right, key) for key in ("weights", "moved", "mean_squares", "deviations")
    }
    return Flow(
        name=left.name,
        tensors=left.tensors + right.tensors,
        trainable=left.trainable + right.trainable,
        receiving=left.receiving + right.receiving,
        frozen_receiving=left.frozen_receiving + right.frozen_receiving,
        entries=left.entries + right.entries,
        squares=left.squares + right.squares,
        absolutes=left.absolutes + right.absolutes,
        maximum=right.maximum if math.isnan(right.maximum) else max(left.maximum, right.maximum),
        zeros=left.zeros + right.zeros,
        **optional,
    )


def _add_optional(left: Flow, right: Flow, key: str) -> float | None:
    ours: float | None = getattr(left, key)
    theirs: float | None = getattr(right, key)
    if not left.receiving:
        return theirs
    if not right.receiving:
        return ours
    return None if ours is None or theirs is None else ours + theirs
