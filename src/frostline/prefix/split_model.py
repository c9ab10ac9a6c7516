"""A network split in two: the frozen prefix, which is a constant function of the image, and the suffix, which trains.

    model = split_at_frost_line(network, trainable=phase.trainable, held=phase.eval_modules)
    logits = model.suffix(model.prefix(images))

The prefix runs without an autograd graph. Its features of an image never change, so they can be stored
(`frostline.prefix.store`). Where to split is read from the network's traced graph (torch.fx), in which a module is one
step; only modules with the frost line inside are traced into, and all others run their own `forward`.
"""

import operator
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from frostline.prefix.engine import ConvertedPart, Engine, EngineError
from frostline.prefix.traced import (
    Part,
    SplitError,
    function_of,
    is_per_image,
    is_tensor,
    name_of,
    part_of,
    trace,
    without_gaps,
)

# Modules that do the same in training and in evaluation. Anything unknown is taken to differ.
SAME_IN_BOTH_MODES = (
    nn.Conv2d, nn.Linear, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Identity, nn.Flatten,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LayerNorm, nn.GroupNorm,
)  # fmt: skip
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

IN_PLACE = ("iadd", "isub", "imul", "itruediv", "setitem")


class SplitModel:
    """A network in two parts.

    Args:
        before: the prefix.
        after: the suffix.
        batch: the prefix computes in batches of this size, filled up where there are fewer images; None: of any.
        compiled: run both by torch.compile.
        engine: what computes the prefix; None: torch.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        before: Part,
        after: Part,
        batch: int | None = None,
        compiled: bool = False,
        engine: Engine | None = None,
    ) -> None:
        self.network = network
        self.before, self.after = before, after
        self.batch, self.compiled = batch, compiled
        self.engine, self._converted = engine or Engine("torch"), ConvertedPart(network, before)
        self._run_before, self._run_after = before.run, after.run
        if compiled:
            self._run_before, self._run_after = torch.compile(before.run), torch.compile(after.run)

    def prefix(self, inputs: Tensor) -> Tensor:
        """Features of inputs (batch, 3, height, width), without a graph."""
        if self.engine.converts:
            try:
                return self._converted(inputs)
            except EngineError as reason:
                self.engine.give_up(reason)
        return self.by_torch(inputs)

    def by_torch(self, inputs: Tensor) -> Tensor:
        """The same by torch, whatever the engine: its results have the shape, type and layout of any engine's."""
        self._restore_modes(inputs)
        # oneDNN computes a batch of one by another algorithm, whose last bit may differ (seen at 64 px in float32);
        # from two on, an image's features do not depend on what else is in its batch, but for `batch`.
        size = self.batch or max(2, len(inputs))
        with torch.no_grad():
            if len(inputs) == size:
                return without_gaps(self._run_before(inputs))
            return torch.cat([self._run_before(_filled(few, size))[: len(few)] for few in inputs.split(size)])

    def about(self) -> dict[str, Any]:
        """What features depend on besides the network, the images and their layout, the precision and the device."""
        return self._converted.about() if self.engine.converts else {"batch": self.batch}

    def operations(self, image_size: int) -> float:
        """Floating-point operations of the prefix for one image."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.before.run(torch.zeros(1, 3, image_size, image_size))
        return float(counter.get_total_flops())

    def suffix(self, features: Tensor) -> Tensor:
        """Logits (batch, classes) of what the prefix returned."""
        self._restore_modes(features)
        return self._run_after(features)

    def _restore_modes(self, inputs: Tensor) -> None:
        # By the network's own hook, which a call of its parts skips. Uncompiled, each module has a hook of its own.
        if self.compiled:
            for hook in self.network._forward_pre_hooks.values():
                hook(self.network, (inputs,))


def split_at_frost_line(
    network: nn.Module,
    *,
    trainable: Collection[str],
    held: Collection[str],
    batch: int | None = None,
    compiled: bool = False,
    engine: Engine | None = None,
) -> SplitModel | None:
    """Split a network where one tensor alone crosses, as late as possible before the first step that changes; None
    where no module with weights comes before that step.

    Args:
        trainable: names of the parameters that train.
        held: names of the modules that are kept in eval mode; a batch norm or dropout that is not held changes.
        batch: images that the prefix computes at once, where the last bits of features depend on that.
        engine: what computes the prefix; None: torch.

    Raises:
        SplitError: the network cannot be traced, or more than one tensor crosses everywhere.
    """
    # By identity: a tensor that is shared trains under one of its names only.
    training = {id(parameter) for name, parameter in network.named_parameters() if name in trainable}
    opened: list[str] = []
    frozen, best = False, None
    nodes = trace(network)
    while True:
        first = next(i for i, node in enumerate(nodes) if _changes(network, node, training, held))
        frozen = frozen or _modules_with_weights(network, nodes[:first]) > 0
        place = next((place for place in range(first, 0, -1) if _crossing(network, nodes, place)), 0)
        # Of equal prefixes the first: what need not be opened runs its own forward.
        if (count := _modules_with_weights(network, nodes[:place])) > (best[0] if best else 0):
            best = count, nodes, place
        name = name_of(nodes[first])
        if nodes[first].op != "call_module" or not _can_be_opened(network.get_submodule(name)):
            break
        try:
            nodes = trace(network, [*opened, name])
        except SplitError:
            break
        opened.append(name)
    if best is None:
        if frozen:
            raise SplitError(f"more than one tensor of {type(network).__name__} crosses the frost line")
        return None
    _, nodes, place = best
    features = _crossing(network, nodes, place)
    assert features is not None
    before = part_of(network, nodes[:place], source=nodes[0], result=features)
    after = part_of(network, nodes[place:-1], source=features, result=nodes[-1].args[0])
    batch = batch if _depends_on_batch(network, before) else None
    return SplitModel(network=network, before=before, after=after, batch=batch, compiled=compiled, engine=engine)


def _modules_with_weights(network: nn.Module, nodes: Sequence[fx.Node]) -> int:
    called = (network.get_submodule(name_of(node)) for node in nodes if node.op == "call_module")
    return sum(1 for module in called for part in module.modules() if part._parameters)


def _changes(network: nn.Module, node: fx.Node, training: Collection[int], held: Collection[str]) -> bool:
    """Whether a step may give something else for an image the next time, or beside other images."""
    if node.op == "get_attr":
        return id(operator.attrgetter(name_of(node))(network)) in training
    if node.op == "call_module":
        module = network.get_submodule(name_of(node))
        if any(id(parameter) in training for parameter in module.parameters()):
            return True
        return any(
            _mode_decides(part) and ".".join(filter(None, (name_of(node), inner))) not in held
            for inner, part in module.named_modules()
        )
    return node.op == "output" or (node.op != "placeholder" and not is_per_image(node))


def _mode_decides(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0:
        return False
    return not isinstance(module, SAME_IN_BOTH_MODES) and type(module) not in CONTAINERS


def _can_be_opened(module: nn.Module) -> bool:
    """Whether a module consists of others, that can be called in its place."""
    if module._forward_hooks or len(module._forward_pre_hooks) > 1:  # one is the policy's, which holds modes
        return False
    if module._buffers:  # a traced forward would write to them, as timm's batch norm counts its batches
        return False
    known = type(module).__module__.startswith("torch.nn.") and type(module) not in CONTAINERS
    return not known and next(module.children(), None) is not None


def _crossing(network: nn.Module, nodes: Sequence[fx.Node], place: int) -> fx.Node | None:
    """The one tensor that crosses from the steps before a place to those after it, which must not overwrite it."""
    later = set(nodes[place:])
    found = [node for node in nodes[:place] if node.op != "get_attr" and not later.isdisjoint(node.users)]
    if len(found) != 1 or found[0].op == "placeholder":
        return None
    for user in later.intersection(found[0].users):
        module = network.get_submodule(name_of(user)) if user.op == "call_module" else None
        if getattr(module, "inplace", user.kwargs.get("inplace", False)):
            return None
        if module is None and (function_of(user) in IN_PLACE or function_of(user).endswith("_")):
            return None
        if user.op == "call_function" and user.target is operator.getitem and isinstance(user.args[1], int):
            return None  # one of several
    return found[0] if is_tensor(network, found[0]) else None


def _depends_on_batch(network: nn.Module, part: Part) -> bool:
    """Whether the last bits of features depend on the number of images: on CPUs, in float32, those of pointwise
    convolutions do (ResNet-50, DenseNet, EfficientNet, MobileNet at 32 to 128 px). An image's place does not count.
    """
    modules = (module for name in part.modules for module in network.get_submodule(name).modules())
    return any(isinstance(m, nn.Conv2d) and m.kernel_size == m.stride == (1, 1) for m in modules)


def _filled(images: Tensor, size: int) -> Tensor:
    """A batch of this size, in the same memory format: the images, then the first of them again."""
    missing = size - len(images)
    return torch.cat([images, *[images[:1]] * missing]) if missing else images
