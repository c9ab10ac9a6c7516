"""Cache key: a hash of everything that the features depend on."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from frostline.prefix.split_model import FLATTEN, SplitModel


def prefix_digest(model: SplitModel) -> str:
    """A digest of the prefix: what it runs, and every bit of its weights and buffers (45 MB take about 50 ms)."""
    digest = hashlib.blake2b(digest_size=16)
    for name in model.before:
        if name == FLATTEN:
            continue
        module = model.network.get_submodule(name)
        digest.update(f"{name}: {module!r}\n".encode())
        for key, tensor in module.state_dict().items():
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's bytes in row-major order, wherever it lies and in whatever memory format."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def feature_key(about: Mapping[str, Any]) -> str:
    """The key of plain values; their order does not matter."""
    text = json.dumps(about, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
