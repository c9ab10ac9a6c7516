"""The proof that what is frozen held still: fingerprints of tensors, exact to the bit, taken where they lie."""

from collections.abc import Mapping, Sequence

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
