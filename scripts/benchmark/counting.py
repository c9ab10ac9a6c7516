"""Operations and bytes of a training step, counted without computing anything.

The step runs on fake tensors, which have shapes and no content, so that a count takes no device and is the same
everywhere.

Operations are those of convolutions and matrix products, forward and backward, as `torch.utils.flop_counter` counts
them: a multiplication and an addition are two. Everything else of a ResNet is below 1 % of them.

Bytes are what the operators would move if each read its inputs from memory and wrote its outputs there, once: weights,
activations, gradients and the optimizer's state in the precision in which they really are (bf16 activations, float32
weights under autocast). Views and allocations move nothing; an operator in place reads and writes. It is the traffic of
an unfused program with no cache: a compiler that fuses, or a cache that holds a small layer, moves less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

ALLOCATES = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided")


@dataclass(frozen=True)
class Counted:
    """Of one run of a step.

    Attributes:
        operations: of convolutions and matrix products.
        bytes: read and written.
    """

    operations: int
    bytes: int


class ByteCounter(TorchDispatchMode):
    """Adds up what the operators that run below it read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # Not `prim::device` and its like: they are asked of a tensor without touching what it holds.
        if func.namespace == "aten" and not (func.is_view or func._schema.name in ALLOCATES):
            self.bytes += bytes_of((args, kwargs)) + bytes_of(result)
            if result is None:  # such as an optimizer's, which returns nothing and writes into its arguments
                self.bytes += bytes_of(_written(func, args, kwargs))
        return result


def bytes_of(tree: Any) -> int:
    """Bytes of all tensors in a tree of lists, tuples and dicts."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    arguments = func._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    return [
        given.get(argument.name)
        for argument in arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def count(prepare: Callable[[], Callable[[], object]]) -> Counted:
    """Count one run of the step that `prepare` makes; both run on fake tensors, the step once before it is counted."""
    with FakeTensorMode():
        step = prepare()
        step()  # the first one makes the optimizer's state
        operations, moved = FlopCounterMode(display=False), ByteCounter()
        with operations, moved:
            step()
    return Counted(operations=operations.get_total_flops(), bytes=moved.bytes)
