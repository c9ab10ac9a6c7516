"""A network's traced graph (torch.fx): what it runs after what, and stretches of it that run by themselves."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from frostline.modes import modes_kept

# Functions between modules that compute each image by itself, always in the same way.
PER_IMAGE = (
    "getattr", "size", "dim", "eq", "ge", "gt", "le", "lt", "floordiv", "mod", "_assert", "add", "iadd", "sub", "mul",
    "imul", "truediv", "relu", "relu_", "gelu", "silu", "sigmoid", "tanh", "hardswish", "adaptive_avg_pool2d",
    "avg_pool2d", "max_pool2d", "layer_norm", "reshape", "view", "expand", "contiguous", "to", "type_as", "float",
)  # fmt: skip
# Those that do where they leave the first dimension alone -> the place of their dimension among the arguments.
BY_DIMENSION = {"cat": 1, "mean": 1, "amax": 1, "softmax": 1, "flatten": 1, "unsqueeze": 1, "chunk": 2, "split": 2,
                "norm": 2, "unflatten": 1, "transpose": 1, "squeeze": 1}  # fmt: skip


class SplitError(ValueError):
    """Why a network cannot be split."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of a network's graph.

    Attributes:
        run: its input -> its output, by the modules that the network has at the time of the call: converting to
            SyncBatchNorm replaces them.
        modules: names of its modules, in the order of their calls.
        tensors: names of the parameters and buffers that it reads outside of these.
        code: what `run` does, in Python.
    """

    run: Callable[[Tensor], Tensor]
    modules: tuple[str, ...]
    tensors: tuple[str, ...]
    code: str


def trace(network: nn.Module, opened: Collection[str] = ()) -> list[fx.Node]:
    """The steps of a network's forward in order. A module is one step, unless it is `opened`.

    Raises:
        SplitError: its forward decides by values, or by its mode.
    """
    graphs, kind = [], type(network).__name__
    for training in (True, False):
        with modes_kept(network):
            for module in network.modules():
                module.training = training
            try:
                graphs.append(_Tracer(opened).trace(_Holder(network)))
            except Exception as error:  # whatever a forward does with values that it is not given
                reason = next(iter(str(error).splitlines()), "").partition(". ")[0] or type(error).__name__
                raise SplitError(f"torch.fx cannot trace the forward of {kind} ({reason})") from error
    # A graph would keep the mode in which it was traced.
    if str(graphs[0]) != str(graphs[1]):
        raise SplitError(
            f"the forward of {kind} does something else in training than in evaluation, outside of modules"
        )
    if any(node.op == "get_attr" and "." not in str(node.target) for node in graphs[0].nodes):
        raise SplitError(f"the forward of {kind} makes a tensor of its own")
    return list(graphs[0].nodes)


class _Holder(nn.Module):
    """Calls a network without its hooks and torch.compile."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network.forward(images)


class _Tracer(fx.Tracer):
    def __init__(self, opened: Collection[str] = ()) -> None:
        super().__init__()
        self.opened = {f"network.{name}" for name in opened}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened


def part_of(network: nn.Module, nodes: Sequence[fx.Node], *, source: fx.Node, result: Any) -> Part:
    """The steps from the value `source` to the value `result`."""
    graph = fx.Graph()
    values = {source: graph.placeholder("values")}

    def value(node: fx.Node) -> fx.Node:
        if node not in values:  # a parameter, which is read where it is used
            values[node] = graph.node_copy(node)
        return values[node]

    for node in nodes:
        if node.op not in ("placeholder", "get_attr"):
            values[node] = graph.node_copy(node, value)
    graph.output(fx.node.map_arg(result, value))
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)  # noqa: S102 - as fx.GraphModule does, which would keep the modules of now
    return Part(
        run=partial(names["forward"], _Holder(network)),
        modules=tuple(name_of(node) for node in graph.nodes if node.op == "call_module"),
        tensors=tuple(dict.fromkeys(name_of(node) for node in graph.nodes if node.op == "get_attr")),
        code=code.src,
    )


def name_of(node: fx.Node) -> str:
    """A module's or tensor's name in the network."""
    return str(node.target).removeprefix("network.")


def function_of(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def is_per_image(node: fx.Node) -> bool:
    name = function_of(node)
    if name in BY_DIMENSION:
        place = BY_DIMENSION[name]
        default = node.args[place] if len(node.args) > place else 0
        dims = node.kwargs.get("dim", node.kwargs.get("start_dim", default))
        return 0 not in (dims if isinstance(dims, list | tuple) else (dims, *node.args[place + 1 :]))
    if name == "permute":
        order = node.args[1] if isinstance(node.args[1], list | tuple) else node.args[1:]
        return bool(order[0] == 0)
    if name == "getitem":
        if isinstance(node.args[0], fx.Node) and function_of(node.args[0]) in ("getattr", "size"):  # of a shape
            return True
        first = node.args[1][0] if isinstance(node.args[1], tuple) else node.args[1]
        return first in (slice(None), Ellipsis)
    return name in PER_IMAGE


def is_tensor(network: nn.Module, node: fx.Node) -> bool:
    """Whether a step gives one tensor, as far as the trace of its module shows."""
    if node.op != "call_module":
        return True
    try:
        graph = _Tracer().trace(network.get_submodule(name_of(node)))
    except Exception:
        return True
    return isinstance(graph.output_node().args[0], fx.Node)


def without_gaps(features: Tensor) -> Tensor:
    """The features themselves; a copy where others lie between their values in memory, as beside a class token's."""
    return features if torch.empty_like(features).stride() == features.stride() else features.contiguous()
