"""A network split in two: the frozen prefix, which is a constant function of the image, and the suffix, which trains.

    model = split_at_frost_line(network, trainable=phase.trainable, held=phase.eval_modules)
    logits = model.suffix(model.prefix(images))

The prefix runs without an autograd graph. Its features of an image never change, so they can be stored
(`frostline.prefix.store`).
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor, nn

FLATTEN = "flatten"  # torchvision's ResNet flattens between two modules
# What a ResNet of torchvision runs, in order; its layers in turn run their blocks.
RESNET_ORDER = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", FLATTEN, "fc")
# Modules that do the same in training and in evaluation. Anything unknown is taken to differ.
SAME_IN_BOTH_MODES = (
    nn.Conv2d, nn.Linear, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Identity, nn.Flatten,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LayerNorm, nn.GroupNorm,
)  # fmt: skip


def sequential_modules(network: nn.Module) -> tuple[str, ...] | None:
    """Names of the modules that the network applies one after another; None where that is not known.

    Known are torchvision's ResNets, block by block, and `nn.Sequential`. Any other network may run something between
    two modules.
    """
    if type(network) is nn.Sequential:
        return tuple(name for name, _ in network.named_children())
    # By the class, not by the names of its parts: a subclass may have another forward.
    if f"{type(network).__module__}.{type(network).__qualname__}" != "torchvision.models.resnet.ResNet":
        return None
    names: list[str] = []
    for name in RESNET_ORDER:
        module = getattr(network, name, None)
        if name.startswith("layer") and type(module) is nn.Sequential:
            names += [f"{name}.{block}" for block, _ in module.named_children()]
        else:
            names.append(name)
    return tuple(names)


class SplitModel:
    """A network in two parts, each of which is a list of its modules.

    Args:
        before: names of the modules of the prefix, in order.
        after: names of the modules of the suffix, in order.
        compiled: run both by torch.compile.

    Modules are looked up by name at each call, since converting to SyncBatchNorm replaces them.
    """

    def __init__(
        self, *, network: nn.Module, before: Sequence[str], after: Sequence[str], compiled: bool = False
    ) -> None:
        self.network = network
        self.before, self.after = tuple(before), tuple(after)
        self.compiled = compiled
        self._run_before: Callable[[Tensor], Tensor] = partial(_run, network, self.before)
        self._run_after: Callable[[Tensor], Tensor] = partial(_run, network, self.after)
        if compiled:
            self._run_before, self._run_after = torch.compile(self._run_before), torch.compile(self._run_after)

    def prefix(self, inputs: Tensor) -> Tensor:
        """Features of inputs (batch, 3, height, width), without a graph."""
        self._restore_modes(inputs)
        with torch.no_grad():
            # oneDNN computes a batch of one by another algorithm, whose last bit may differ (seen at 64 px in
            # float32); from two on, an image's features do not depend on what else is in its batch.
            alone = len(inputs) == 1
            features = self._run_before(torch.cat([inputs, inputs]) if alone else inputs)
            return features[:1] if alone else features

    def suffix(self, features: Tensor) -> Tensor:
        """Logits (batch, classes) of what the prefix returned."""
        self._restore_modes(features)
        return self._run_after(features)

    def _restore_modes(self, inputs: Tensor) -> None:
        # By the network's own hook, which a call of its parts skips. Uncompiled, each module has a hook of its own.
        if self.compiled:
            for hook in self.network._forward_pre_hooks.values():
                hook(self.network, (inputs,))


def _run(network: nn.Module, names: Sequence[str], values: Tensor) -> Tensor:
    for name in names:
        values = torch.flatten(values, 1) if name == FLATTEN else network.get_submodule(name)(values)
    return values


def split_at_frost_line(
    network: nn.Module, *, trainable: Collection[str], held: Collection[str], compiled: bool = False
) -> SplitModel | None:
    """Split a network before the first of its modules that changes; None where no module with weights comes before it,
    or where the order of the modules is not known.

    Args:
        trainable: names of the parameters that train.
        held: names of the modules that are kept in eval mode; a batch norm or dropout that is not held changes.
    """
    modules = sequential_modules(network)
    if modules is None:
        return None
    # By identity: a tensor that is shared trains under one of its names only.
    training = {id(parameter) for name, parameter in network.named_parameters() if name in trainable}
    first = next((place for place, name in enumerate(modules) if _changes(network, name, training, held)), len(modules))
    before, after = modules[:first], modules[first:]
    if not any(name != FLATTEN and next(network.get_submodule(name).parameters(), None) is not None for name in before):
        return None
    return SplitModel(network=network, before=before, after=after, compiled=compiled)


def _changes(network: nn.Module, name: str, training: Collection[int], held: Collection[str]) -> bool:
    if name == FLATTEN:
        return False
    module = network.get_submodule(name)
    if any(id(parameter) in training for parameter in module.parameters()):
        return True
    for inner, part in module.named_modules():
        leaf = next(part.children(), None) is None
        if leaf and not isinstance(part, SAME_IN_BOTH_MODES) and ".".join(filter(None, (name, inner))) not in held:
            return True
    return False
