"""The proof that what is frozen held still: fingerprints of tensors, exact to the bit, taken where they lie."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from frostline.freezing.stages import bare

# Of `Audit.state_dict`: fingerprints of another kind cannot be compared.
KIND = "xxh3_128"


class FrozenTensorMoved(RuntimeError):  # noqa: N818 - it says what happened
    """A tensor that a phase freezes has changed."""


def fingerprint(tensor: Tensor) -> int:
    """A 128-bit fingerprint (XXH3) of a tensor's type, shape and bytes, the same on every device.

    Bytes and no numbers: 0.0 and -0.0 differ, and so do two kinds of NaN. A tensor on a GPU is copied to the host.
    """
    if hasattr(tensor, "to_local"):  # a DTensor: this rank's shard
        tensor = tensor.to_local()
    digest = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    data: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(data)
    return digest.intdigest()


def is_sharded(network: nn.Module) -> bool:
    """Whether ranks hold different parts of the parameters (FSDP2): one's fingerprints mean nothing to another."""
    return any(hasattr(parameter, "to_local") for parameter in network.parameters())


def fingerprints(network: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The fingerprints of parameters and buffers that are there, by name: of all of a ResNet-18 in 2 ms on one core."""
    network = bare(network)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: fingerprint(tensors[name]) for name in names if name in tensors}


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

    @property
    def has_begun(self) -> bool:
        """Whether there are fingerprints to compare with; a checkpoint may have some of another kind."""
        return bool(self._marks)

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
        self,
        network: nn.Module,
        *,
        phase: str,
        reason: str,
        step: int,
        except_for: Collection[str] = (),
        enter: bool = True,
    ) -> list[str]:
        """Names of the tensors that moved since `begin`; the comparison is entered into the minutes.

        Args:
            enter: False: only where something moved.
        """
        now = fingerprints(network, list(self._marks))
        changed = [name for name in moved(self._marks, now) if name not in except_for]
        if enter or changed:
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
        return {"kind": KIND, "marks": self._marks, "entries": self.entries}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._marks = dict(state["marks"]) if state.get("kind") == KIND else {}
        self.entries = list(state["entries"])
