"""Cache key: a hash of everything that the features depend on."""

import hashlib
import inspect
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.prefix.split_model import SplitModel


def prefix_digest(model: SplitModel) -> str:
    """A digest of the prefix: what it runs, and every bit of its weights and buffers (45 MB take about 50 ms)."""
    digest, network = hashlib.blake2b(digest_size=16), model.network
    digest.update(model.before.code.encode())
    modules = [(name, network.get_submodule(name)) for name in model.before.modules]
    for name, module in modules:
        digest.update(f"{name}: {module!r}\n".encode())
        for key, tensor in module.state_dict().items():
            _add(digest, key, tensor)
    for name in model.before.tensors:
        _add(digest, name, operator.attrgetter(name)(network))
    for file in sorted({_file_of(type(part)) for _, module in modules for part in module.modules()}):
        digest.update(file.encode())
        digest.update(Path(file).read_bytes() if Path(file).is_file() else b"")
    return digest.hexdigest()


def _file_of(kind: type) -> str:
    """The file of a class's source, whose contents say what it computes; its name where there is no file."""
    try:
        return inspect.getfile(kind)
    except (OSError, TypeError):
        return kind.__qualname__


def _add(digest: "hashlib.blake2b", name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor_bytes(tensor))


def tensor_bytes(tensor: Tensor) -> bytes:
    """A tensor's bytes in row-major order, wherever it lies and in whatever memory format."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def feature_key(about: Mapping[str, Any]) -> str:
    """The key of plain values; their order does not matter."""
    text = json.dumps(about, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
