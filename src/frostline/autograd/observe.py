"""Record one forward pass: its loss, its graph with the module that made each node, shapes and FLOPs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import Node as GradFn
from torch.utils.flop_counter import FlopCounterMode

from frostline.autograd.graph import Graph, walk
from frostline.modes import eval_mode

LOSS = "loss"  # what made the nodes after the network's own


@dataclass(frozen=True)
class Observation:
    """What one forward pass did.

    loss: still attached to its graph, so that backward can follow.
    shapes: module name -> shape of its output; "" is the network. The last call counts.
    flops: module name -> FLOPs of its forward for one image; a multiply-add counts two. None where not counted.
    """

    network: nn.Module
    loss: torch.Tensor
    graph: Graph
    shapes: Mapping[str, tuple[int, ...]]
    flops: Mapping[str, int] | None


def observe(
    network: nn.Module,
    images: torch.Tensor,
    loss_function: Callable[[torch.Tensor], torch.Tensor],
    *,
    count_flops: bool = True,
) -> Observation:
    """Run the network on images (batch, 3, height, width), in its current mode, and the loss on its output.

    In training mode the batch norms that are not frozen update their statistics, as in any forward pass. FLOPs are
    counted in a pass of its own: one image, eval mode, no gradients.

    Raises:
        ValueError: the loss has no graph, for instance because every parameter is frozen.
    """
    flops = flops_of(network, images[:1]) if count_flops else None
    with _watch(network) as (made_by, shapes):
        output = network(images)
    loss = loss_function(output)
    _claim(loss, LOSS, made_by)
    graph = walk(loss, network=network, made_by=made_by)
    return Observation(network, loss, graph, dict(shapes), flops)


def flops_of(network: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Module name -> FLOPs of its forward on these images, as torch counts them (matrix products, convolutions)."""
    counter = FlopCounterMode(display=False)
    with eval_mode(network), torch.no_grad(), counter:
        network(images)
    counts = {name.partition(".")[2]: sum(by_operation.values()) for name, by_operation in counter.flop_counts.items()}
    return {name: int(counts.get(name, 0)) for name, _ in network.named_modules()} | {"": counter.get_total_flops()}


@contextmanager
def _watch(network: nn.Module) -> Iterator[tuple[dict[GradFn, str], dict[str, tuple[int, ...]]]]:
    """Fill (node -> module that made it, module -> output shape) while the network runs.

    Nodes are claimed whenever a module is entered or left: what is new behind a module's inputs was made by its
    caller, what is new behind its outputs by itself. Holding the nodes keeps their Python identity.
    """
    made_by: dict[GradFn, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    running: list[str] = []
    handles = []
    for name, module in network.named_modules():

        def enter(_: nn.Module, arguments: tuple[object, ...], named: dict[str, object], name: str = name) -> None:
            _claim((arguments, named), running[-1] if running else LOSS, made_by)
            running.append(name)

        def leave(_: nn.Module, arguments: tuple[object, ...], output: object, name: str = name) -> None:
            _claim(output, name, made_by)
            running.pop()
            if isinstance(output, torch.Tensor):
                shapes[name] = tuple(output.shape)

        handles += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
    try:
        yield made_by, shapes
    finally:
        for handle in handles:
            handle.remove()


def _claim(value: object, name: str, made_by: dict[GradFn, str]) -> None:
    found = [tensor.grad_fn for tensor in _tensors(value) if tensor.grad_fn is not None]
    while found:
        grad_fn = found.pop()
        if grad_fn not in made_by:
            made_by[grad_fn] = name
            found += [following for following, _ in grad_fn.next_functions if following is not None]


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(entry)
