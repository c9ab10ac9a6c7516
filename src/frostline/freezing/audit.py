"""The proof that what is frozen held still: fingerprints of tensors, exact to the bit, taken where they lie."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from frostline.freezing.stages import bare

# Odd, so that multiplying by it modulo 2^64 loses nothing: the golden ratio in 64 bits, as a signed number.
MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)


class FrozenTensorMoved(RuntimeError):  # noqa: N818 - it says what happened
    """A tensor that a phase freezes has changed."""


def fingerprint(tensor: Tensor) -> Tensor:
    """A 64-bit fingerprint of a tensor's bytes, as a 0-dimensional tensor on the same device.

    The sum of all 8-byte words, each times an odd number of its own, modulo 2^64: whole numbers, so the order of
    summation cannot matter, and a change of a single word always shows.
    """
    if hasattr(tensor, "to_local"):  # a DTensor: this rank's shard
        tensor = tensor.to_local()
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if raw.numel() % 8 or raw.storage_offset() % 8:
        raw = torch.cat([raw, raw.new_zeros(-raw.numel() % 8)])
    words = raw.view(torch.int64)
    odd = 2 * torch.arange(words.numel(), device=words.device) + 1
    return (words * (odd * MULTIPLIER)).sum()


def is_sharded(network: nn.Module) -> bool:
    """Whether ranks hold different parts of the parameters (FSDP2): one's fingerprints mean nothing to another."""
    return any(hasattr(parameter, "to_local") for parameter in network.parameters())


def fingerprints(network: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The fingerprints of parameters and buffers, by name; one transfer from the device for all of them."""
    network = bare(network)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    if not names:
        return {}
    marks = torch.stack([fingerprint(tensors[name]) for name in names])
    return dict(zip(names, marks.tolist(), strict=True))


def moved(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Names of the tensors whose fingerprints differ, or which are gone."""
    return [name for name, mark in before.items() if after.get(name) != mark]


class Audit:
    """Watches over the tensors that a phase freezes, and keeps the minutes.

    entries: one per comparison, in plain values: phase, reason, step, tensors compared, names of those that moved.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._marks: dict[str, int] = {}
        self._copies: dict[str, Tensor] = {}

    def begin(self, network: nn.Module, names: Sequence[str]) -> None:
        """Take the fingerprints of what must hold still from now on."""
        self._marks = fingerprints(network, names)
        self.copy_buffers(network)

    def copy_buffers(self, network: nn.Module) -> None:
        """Copies of the frozen statistics, a few thousand numbers, for whoever resets batch norms wholesale."""
        self._copies = {name: entry.clone() for name, entry in network.named_buffers() if name in self._marks}

    def put_buffers_back(self, network: nn.Module) -> None:
        """Undo a wholesale reset of statistics."""
        own = dict(network.named_buffers())
        for name, kept in self._copies.items():
            own[name].copy_(kept)

    def compare(
        self, network: nn.Module, *, phase: str, reason: str, step: int, except_for: Collection[str] = ()
    ) -> list[str]:
        """Names of the tensors that moved since `begin`; the comparison is entered into the minutes."""
        now = fingerprints(network, list(self._marks))
        changed = [name for name in moved(self._marks, now) if name not in except_for]
        entry = {"phase": phase, "reason": reason, "step": step, "tensors": len(self._marks), "moved": changed}
        self.entries.append(entry)
        return changed

    def verdict(self) -> dict[str, Any]:
        """Whether everything held still, in plain values."""
        return {
            "held": bool(self.entries) and not any(entry["moved"] for entry in self.entries),
            "tensors_compared": sum(entry["tensors"] for entry in self.entries),
            "audits": [dict(entry) for entry in self.entries],
        }

    def state_dict(self) -> dict[str, Any]:
        return {"marks": self._marks, "entries": self.entries}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._marks, self.entries = dict(state["marks"]), list(state["entries"])
