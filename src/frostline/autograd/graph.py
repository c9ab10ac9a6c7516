"""The autograd graph as plain data: walked from a tensor's `grad_fn`, so that it is what backward will do.

Autograd's graph runs from the loss (the root) to the leaves, the tensors whose `.grad` backward fills. Each operation
is a node such as `AddmmBackward0`; each leaf is an `AccumulateGrad` node. A frozen parameter is in no graph at all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.autograd.graph import Node as GradFn


@dataclass(frozen=True)
class Node:
    """One node; `parameter` and `shape` belong to leaves, `module` is known only to an observed graph.

    kept_bytes: tensors kept for backward that no earlier operation of the forward pass keeps already.
    module: dotted name of the module whose forward made the node, "" for the network itself, None where unknown.
    """

    index: int
    kind: str
    parameter: str | None = None
    shape: tuple[int, ...] | None = None
    kept_bytes: int = 0
    module: str | None = None

    @property
    def is_leaf(self) -> bool:
        return self.shape is not None

    @property
    def operation(self) -> str:
        """`ConvolutionBackward0` -> `Convolution`."""
        return self.kind.rstrip("0123456789").removesuffix("Backward")


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which every node precedes what it passes gradients to; node 0 is the root.

    An edge (i, j): backward passes a gradient from node i to node j; two such edges: j is used twice.
    frozen, unreached: names of the network's parameters that are no leaves, because they require no gradient, or
    although they do; both None where the graph was walked without its network.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    frozen: tuple[str, ...] | None = None
    unreached: tuple[str, ...] | None = None

    @cached_property
    def leaves(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.is_leaf)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the leaves that have one."""
        return frozenset(node.parameter for node in self.leaves if node.parameter is not None)

    @property
    def kept_bytes(self) -> int:
        return sum(node.kept_bytes for node in self.nodes)


def walk(
    loss: torch.Tensor,
    *,
    network: nn.Module | None = None,
    names: Mapping[str, torch.Tensor] | None = None,
    made_by: Mapping[GradFn, str] | None = None,
) -> Graph:
    """The graph behind a tensor. Walk it before backward, which frees what it keeps.

    `network` gives the leaves their parameters' names, `names` those of other tensors, `made_by` each node's module.

    Tensors packed by saved-tensor hooks (checkpointing, offloading) are not kept as they are, and count no bytes.

    Raises:
        ValueError: the tensor has no graph.
    """
    parameters = dict(network.named_parameters()) if network is not None else {}
    if loss.grad_fn is None:
        raise ValueError(_no_graph(loss, parameters))
    named = {id(tensor): name for name, tensor in {**parameters, **(names or {})}.items()}
    order = _ordered(loss.grad_fn)
    position = {grad_fn: index for index, grad_fn in enumerate(order)}
    kept = _kept_bytes(order, network)
    nodes = []
    for index, grad_fn in enumerate(order):
        variable = getattr(grad_fn, "variable", None)
        nodes.append(
            Node(
                index=index,
                kind=grad_fn.name().rpartition("::")[2],
                parameter=named.get(id(variable)),
                shape=None if variable is None else tuple(variable.shape),
                kept_bytes=kept[index],
                module=None if made_by is None else made_by.get(grad_fn),
            )
        )
    edges = tuple((index, position[following]) for index, grad_fn in enumerate(order) for following in _next(grad_fn))
    if network is None:
        return Graph(tuple(nodes), edges)
    reached = {node.parameter for node in nodes}
    left = [name for name in parameters if name not in reached]
    frozen = tuple(name for name in left if not parameters[name].requires_grad)
    return Graph(tuple(nodes), edges, frozen, tuple(name for name in left if parameters[name].requires_grad))


def inconsistencies(graph: Graph, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """One sentence for each way in which three sets differ; none where they agree.

    The sets: the graph's leaves; the parameters with `requires_grad`; those of them that the optimizer holds. An
    optimizer may hold frozen parameters besides, as it does when they are to train in a later phase.
    """
    parameters = dict(network.named_parameters())
    in_optimizer = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
    stepped = {name for name in trainable if id(parameters[name]) in in_optimizer}
    own = {id(parameter) for parameter in parameters.values()}
    sentences = []
    for names, what in (
        (trainable - graph.parameters, "require a gradient, but the loss does not depend on them"),
        (graph.parameters - trainable, "are leaves of the graph, but no longer require a gradient"),
        (trainable - stepped, "require a gradient, but the optimizer does not hold them"),
    ):
        if names:
            sentences.append(f"{len(names)} of {len(parameters)} parameters {what}: {_listed(sorted(names))}.")
    if foreign := len(in_optimizer - own):
        sentences.append(f"The optimizer holds tensors that are no parameters of the network ({foreign} of them).")
    return sentences


def _next(grad_fn: GradFn) -> Iterator[GradFn]:
    return (following for following, _ in grad_fn.next_functions if following is not None)


def _ordered(root: GradFn) -> list[GradFn]:
    """Reverse postorder of a depth-first search without recursion: a deep network would exceed Python's stack."""
    finished: list[GradFn] = []
    seen = {root}
    stack = [(root, _next(root))]
    while stack:
        grad_fn, remaining = stack[-1]
        for following in remaining:
            if following not in seen:
                seen.add(following)
                stack.append((following, _next(following)))
                break
        else:
            finished.append(grad_fn)
            stack.pop()
    return finished[::-1]


def _kept_bytes(order: list[GradFn], network: nn.Module | None) -> list[int]:
    """Bytes of the storages that each node is the first to keep, in the order of the forward pass.

    Storages of parameters, buffers and other leaves exist anyway and are left out.
    """
    leaves = [grad_fn.variable for grad_fn in order if hasattr(grad_fn, "variable")]
    state = [*network.parameters(), *network.buffers()] if network is not None else []
    counted = {_storage(tensor) for tensor in (*leaves, *state)}
    kept = [0] * len(order)
    for index in reversed(range(len(order))):
        for tensor in _saved(order[index]):
            if (storage := _storage(tensor)) not in counted:
                counted.add(storage)
                kept[index] += tensor.untyped_storage().nbytes()
    return kept


def _saved(grad_fn: GradFn) -> Iterator[torch.Tensor]:
    """The tensors a node keeps, raw: unpacking them would run hooks, recompute checkpoints and check versions."""
    for attribute in dir(grad_fn):
        if attribute.startswith("_raw_saved_"):
            try:
                saved = getattr(grad_fn, attribute)
            except RuntimeError:  # of a Python-defined function whose tensors backward has freed
                continue
            for entry in saved if isinstance(saved, tuple | list) else (saved,):
                if isinstance(entry.data, torch.Tensor):
                    yield entry.data


def _storage(tensor: torch.Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _no_graph(loss: torch.Tensor, parameters: Mapping[str, nn.Parameter]) -> str:
    if loss.requires_grad:
        return "The tensor is itself a leaf: no operation made it, so there is no graph behind it."
    if parameters and not any(parameter.requires_grad for parameter in parameters.values()):
        return (
            f"Every one of the network's {len(parameters)} parameters is frozen, so the loss has no graph and nothing "
            "could learn; let at least one stage train, for example the head."
        )
    return (
        "The tensor has no graph: nothing it was computed from requires a gradient, or it was computed under "
        "torch.no_grad() or detached."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
