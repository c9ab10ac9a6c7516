"""Token for comparing checkpoints: equal tokens mean equal content."""

from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor


def content_of(value: Any) -> Any:
    """The value with each tensor replaced by its type, device, shape and a 128-bit hash of its bytes.

    An unsupported value, such as a sparse tensor, becomes an object that equals nothing: the file is then written.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            return object()
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return value.dtype, value.device, tuple(value.shape), xxhash.xxh3_128_digest(raw.numpy().data)
    if isinstance(value, Mapping):
        return type(value), [(key, content_of(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [content_of(item) for item in value]
    return (type(value), value) if isinstance(value, str | bytes | int | float | None) else object()
