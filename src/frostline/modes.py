"""Modules in eval mode for a while, and modules that are restored afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Afterwards a module and all in it have the modes again that they had before."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and all in it into eval mode; afterwards each has its own mode again."""
    with modes_kept(module):
        module.eval()
        yield


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Afterwards the parameters and buffers hold the values that they held before."""

    def tensors() -> dict[str, torch.Tensor]:
        return {**dict(module.named_parameters()), **dict(module.named_buffers())}

    before = {name: tensor.detach().clone() for name, tensor in tensors().items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors().items():
                tensor.copy_(before[name])
