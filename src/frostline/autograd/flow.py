"""What the gradient does in each parameter and stage: its size, its noise, and how far a step moves the weights.

All sums are made on the parameters' device and read once, so that measuring waits for the device once.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from frostline.freezing.selectors import stage_of, stages_of

COUNTED = ("tensors", "trainable", "receiving", "frozen_receiving", "entries", "squares", "absolutes", "zeros")
OPTIONAL = ("weights", "moved", "mean_squares", "deviations")


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
        if self.deviations is None or not self.mean_squares:
            return None
        return math.sqrt(self.deviations / self.mean_squares)

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
    flows = list(flows)
    values = {key: sum(getattr(flow, key) for flow in flows) for key in COUNTED}
    for key in OPTIONAL:
        measured = [getattr(flow, key) for flow in flows if flow.receiving]
        values[key] = sum(measured) if measured and None not in measured else None
    maxima = [flow.maximum for flow in flows]
    return Flow(name, **values, maximum=math.nan if any(map(math.isnan, maxima)) else max(maxima, default=0.0))


class Moments:
    """Mean and scatter of the gradients over batches, by Welford's method: one tensor per parameter, whatever k is."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, torch.Tensor, torch.Tensor]] = {}  # batches, mean, scatter

    def add(self, network: nn.Module) -> None:
        """Take in the gradients that the parameters hold now."""
        for name, parameter in network.named_parameters():
            if parameter.grad is None:
                continue
            gradient = _real(parameter.grad)
            if name not in self._found:
                self._found[name] = 1, gradient.clone(), gradient.new_zeros(())
                continue
            batches, mean, scatter = self._found[name]
            before = gradient - mean
            mean.add_(before, alpha=1 / (batches + 1))
            # (g - old mean)·(g - new mean), and g - new mean is (g - old mean)·(k - 1)/k
            self._found[name] = batches + 1, mean, scatter + _squares(before) * (batches / (batches + 1))

    def mean(self, name: str) -> torch.Tensor:
        return self._found[name][1]

    def sums(self, name: str) -> dict[str, torch.Tensor]:
        """A flow's `mean_squares` and `deviations`; empty before the second batch."""
        if name not in self._found or self._found[name][0] < 2:
            return {}
        batches, mean, scatter = self._found[name]
        return {"mean_squares": _squares(mean), "deviations": scatter / (batches - 1)}


class Measurement:
    """One look at the gradients: made before the optimizer's step, finished after it."""

    def __init__(self, network: nn.Module, *, moments: Moments | None = None) -> None:
        """Sum up the gradients and remember the weights that hold one: memory for one more copy of those."""
        self._network = network
        self._sums: dict[str, dict[str, torch.Tensor]] = {}
        self._weights: dict[str, torch.Tensor] = {}
        for name, parameter in network.named_parameters():
            if parameter.grad is None:
                continue
            gradient = _real(parameter.grad)
            sizes = gradient.abs()
            self._sums[name] = {
                "squares": _squares(gradient),
                "absolutes": sizes.sum(),
                "maximum": sizes.max(),
                "nonzero": torch.count_nonzero(gradient),
                **({} if moments is None else moments.sums(name)),
            }
            self._weights[name] = parameter.detach().clone()

    def finish(self, *, after_step: bool) -> list[Flow]:
        """One Flow for each parameter, in the network's order; reading the sums waits for the device, once."""
        parameters = dict(self._network.named_parameters())
        if after_step:
            for name, before in self._weights.items():
                moved = _squares(_real(parameters[name]) - _real(before))
                self._sums[name] |= {"weights": _squares(_real(before)), "moved": moved}
        flat = [value.float() for sums in self._sums.values() for value in sums.values()]
        numbers = iter(torch.stack(flat).tolist() if flat else [])
        flows = []
        for name, parameter in parameters.items():
            values = {key: next(numbers) for key in self._sums.get(name, {})}
            receiving, trainable, entries = bool(values), parameter.requires_grad, parameter.numel()
            if receiving:
                values |= {"entries": entries, "zeros": entries - int(values.pop("nonzero"))}
            stray = int(receiving and not trainable)
            flows.append(Flow(name, 1, int(trainable), int(receiving), stray, **values))
        return flows


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: squares of float16 gradients would under- and overflow. Sparse ones (embeddings) made dense."""
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return dense if dense.dtype in (torch.float32, torch.float64) else dense.float()


def _squares(tensor: torch.Tensor) -> torch.Tensor:
    """Σx². `sum` adds pairwise: on a CPU in float32 it is right to 1e-7 where `vector_norm` is off by 1e-4."""
    return tensor.square().sum()
