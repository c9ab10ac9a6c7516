"""The state of a process between two steps: its random generators, and the sums of the epoch's metrics."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric


def random_state() -> dict[str, Any]:
    """The state of torch's, numpy's and Python's generators, in types that load with `weights_only=True`."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state(),
        # Asking an unused CUDA for its state would start it, which takes 300 MB of the device.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": random.getstate(),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Undo what was drawn since `random_state` gave this state."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    kept = state["numpy"]
    key = kept["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, kept["pos"], kept["has_gauss"], kept["gauss"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def metric_states(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """The sums so far of every torchmetrics metric in a module that has some, by the metric's name."""
    return {
        name: {"updates": metric._update_count, "state": {key: _copied(value) for key, value in state.items()}}
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and metric._update_count and (state := metric.metric_state)
    }


def restore_metric_states(module: torch.nn.Module, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Let metrics go on from what `metric_states` gave; those that the module no longer has are left out."""
    for name, metric in module.named_modules():
        if isinstance(metric, Metric) and name in states:
            for key, value in states[name]["state"].items():
                setattr(metric, key, _copied(value, metric.device))
            metric._update_count, metric._computed = states[name]["updates"], None


def _copied(value: Any, device: torch.device | None = None) -> Any:
    if isinstance(value, list):
        return [_copied(item, device) for item in value]
    return value.detach().to(device=device or value.device, copy=True)


def summed_metric_states(module: torch.nn.Module, ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metric states of several ranks as those of one; metrics that cannot be reduced are left out."""
    found: dict[str, Any] = {}
    for name, metric in module.named_modules():
        states = [rank[name] for rank in ranks if name in rank]
        reductions: dict[str, Any] = dict(metric._reductions) if isinstance(metric, Metric) and states else {}
        if reductions and all(callable(reduce) for reduce in reductions.values()):
            state = {
                key: reduce(torch.stack([one["state"][key] for one in states]))
                for key, reduce in reductions.items()
                if not isinstance(states[0]["state"][key], list)
            }
            if len(state) == len(reductions):
                found[name] = {"updates": sum(one["updates"] for one in states), "state": state}
    return found
