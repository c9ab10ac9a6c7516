"""Measure the gradients that a network's parameters hold.

All sums are made on the parameters' device and read once, so that measuring waits for the device once.
"""

import torch
from torch import nn

from frostline.autograd.flow import Flow


class Moments:
    """Mean and scatter of the gradients over batches, by Welford's method: one tensor per parameter, whatever k is."""

    def __init__(self) -> None:
        self._mean: dict[str, torch.Tensor] = {}
        self._scatter: dict[str, torch.Tensor] = {}
        self._batches: dict[str, int] = {}

    def add(self, network: nn.Module) -> None:
        """Take in the gradients that the parameters hold now."""
        for name, parameter in network.named_parameters():
            if parameter.grad is None:
                continue
            gradient = _real(parameter.grad)
            if name not in self._mean:
                self._mean[name] = gradient.clone()
                self._scatter[name] = torch.zeros((), dtype=gradient.dtype, device=gradient.device)
                self._batches[name] = 1
                continue
            self._batches[name] += 1
            before = gradient - self._mean[name]
            self._mean[name].add_(before, alpha=1 / self._batches[name])
            # (g - old mean)·(g - new mean), and g - new mean is (g - old mean)·(k - 1)/k
            factor = 1 - 1 / self._batches[name]
            self._scatter[name] += _squares(before) * factor

    def mean(self, name: str) -> torch.Tensor:
        return self._mean[name]

    def sums(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(‖ḡ‖², Σ‖g_k - ḡ‖²/(k-1)), or None before the second batch."""
        batches = self._batches.get(name, 0)
        if batches < 2:
            return None
        return _squares(self._mean[name]), self._scatter[name] / (batches - 1)


class Measurement:
    """One look at the gradients: made before the optimizer's step, finished after it."""

    def __init__(self, network: nn.Module, *, moments: Moments | None = None) -> None:
        """Sum up the gradients and remember the weights that hold one: memory for one more copy of those."""
        self._network = network
        self._sums: dict[str, list[torch.Tensor]] = {}
        self._weights: dict[str, torch.Tensor] = {}
        self._noisy: set[str] = set()
        for name, parameter in network.named_parameters():
            if parameter.grad is None:
                continue
            gradient = _real(parameter.grad)
            sizes = gradient.abs()
            self._sums[name] = [_squares(gradient), sizes.sum(), sizes.max(), torch.count_nonzero(gradient)]
            scatter = None if moments is None else moments.sums(name)
            if scatter is not None:
                self._noisy.add(name)
                self._sums[name] += scatter
            self._weights[name] = parameter.detach().clone()

    def finish(self, *, after_step: bool) -> list[Flow]:
        """One Flow for each parameter, in the network's order; reading the sums waits for the device, once."""
        parameters = dict(self._network.named_parameters())
        if after_step:
            for name, before in self._weights.items():
                self._sums[name] += [
                    _squares(_real(before)),
                    _squares(_real(parameters[name]) - _real(before)),
                ]
        flat = [value.float() for values in self._sums.values() for value in values]
        numbers = iter(torch.stack(flat).tolist() if flat else [])
        read = {name: [next(numbers) for _ in values] for name, values in self._sums.items()}
        return [self._flow(name, parameter, read.get(name), after_step) for name, parameter in parameters.items()]

    def _flow(self, name: str, parameter: nn.Parameter, values: list[float] | None, after_step: bool) -> Flow:
        if values is None:
            return Flow(name, tensors=1, trainable=int(parameter.requires_grad))
        squares, absolutes, maximum, nonzero, *rest = values
        mean_squares, deviations = (rest.pop(0), rest.pop(0)) if name in self._noisy else (None, None)
        weights, moved = (rest.pop(0), rest.pop(0)) if after_step else (None, None)
        return Flow(
            name=name,
            tensors=1,
            trainable=int(parameter.requires_grad),
            receiving=1,
            frozen_receiving=int(not parameter.requires_grad),
            entries=parameter.numel(),
            squares=squares,
            absolutes=absolutes,
            maximum=maximum,
            zeros=parameter.numel() - int(nonzero),
            weights=weights,
            moved=moved,
            mean_squares=mean_squares,
            deviations=deviations,
        )


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: squares of float16 gradients would under- and overflow. Sparse ones (embeddings) made dense."""
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return dense if dense.dtype in (torch.float32, torch.float64) else dense.float()


def _squares(tensor: torch.Tensor) -> torch.Tensor:
    """Σx². `sum` adds pairwise: on a CPU in float32 it is right to 1e-7 where `vector_norm` is off by 1e-4."""
    return tensor.square().sum()
