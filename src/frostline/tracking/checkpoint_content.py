"""Whether two checkpoints say the same, without looking at their large tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

COMPARED_BY_VALUE = 2**16  # bytes; random states and metrics are made anew for each checkpoint


class TensorContent:
    """A tensor's place in memory, and how often that was written to.

    The storage is known by a weak reference: that keeps its address from being given out again, and not its memory. The
    count does not see who writes through `Tensor.data`.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._view = (tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor._version)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorContent):
            return False
        return self._storage.cdata == other._storage.cdata and self._view == other._view

    __hash__ = None  # type: ignore[assignment]


def content_of(value: Any) -> Any:
    """Something that is equal to what this returns for another value only where both hold the same.

    What it does not know is equal to nothing: the answer is then "not the same", which costs a writing.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided:  # has no single storage
            return object()
        if value.nbytes <= COMPARED_BY_VALUE:
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            return value.dtype, value.device, tuple(value.shape), raw.numpy().tobytes()
        # An inference tensor does not count who writes to it.
        return object() if value.is_inference() else TensorContent(value)
    if isinstance(value, Mapping):
        return type(value), [(key, content_of(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [content_of(item) for item in value]
    return (type(value), value) if isinstance(value, str | bytes | int | float | None) else object()
