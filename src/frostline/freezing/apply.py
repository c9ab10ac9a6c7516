"""Make a network obey a phase: flags, gradients and modes. Nothing else in the house touches any of the three."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from inspect import unwrap
from typing import Any

from torch import nn
from torch.compiler import is_compiling
from torch.utils.hooks import RemovableHandle

from frostline.freezing.resolved import ResolvedPhase
from frostline.freezing.stages import bare


def apply_phase(network: nn.Module, phase: ResolvedPhase) -> None:
    """Bring a network into a phase, from whatever state it is in, and into training mode as the phase means it.

    What is frozen loses its gradient altogether: momentum and weight decay move a parameter whose gradient is zero, and
    leave alone one that has none.
    """
    network = bare(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in phase.trainable)
        if name not in phase.trainable:
            parameter.grad = None
    release_modes(network)
    network.train()
    hold_modes(network, phase)


def set_modes(network: nn.Module, phase: ResolvedPhase) -> None:
    """Put what the phase holds into eval mode, module by module; everything else keeps its mode."""
    _hold(bare(network), phase.held)


def hold_modes(network: nn.Module, phase: ResolvedPhase) -> None:
    """Keep the phase's frozen modules in eval mode from now on, whoever calls `train()` or sets `training`.

    A keeper stands at the network's own `train()` and before its `forward()`, and another at each held module whose
    mode matters, since `network.layer1.train()` and a part that is called by itself go past the network's (1.5 µs a
    module and step: 0.03 ms of a ResNet-18). They are attributes of these objects: copies and pickles carry them along,
    state dicts do not, and no class is changed. Calling again replaces them.
    """
    network = bare(network)
    release_modes(network)
    _keep(network, phase.held)
    for name, module in network.named_modules(remove_duplicate=False):
        if name in phase.held and _mode_matters(module) and not isinstance(module.__dict__.get("train"), _Keeper):
            _keep(module, frozenset({""}))
    set_modes(network, phase)


def release_modes(network: nn.Module) -> None:
    """Let the network's modes go: `train()` means again what torch says."""
    for module in bare(network).modules():
        keeper = module.__dict__.get("train")
        if isinstance(keeper, _Keeper):
            del module.__dict__["train"]
            if keeper.handle is not None:
                keeper.handle.remove()


def misplaced_flags(network: nn.Module, phase: ResolvedPhase) -> list[str]:
    """Names of the parameters whose `requires_grad` is not what the phase says: somebody else set it."""
    return [
        name
        for name, parameter in bare(network).named_parameters()
        if parameter.requires_grad != (name in phase.trainable)
    ]


def frozen_tensors(network: nn.Module, phase: ResolvedPhase) -> list[str]:
    """Names of the parameters and buffers that must not move in a phase: all that does not train, and the buffers of
    what is held in eval mode (running statistics and `num_batches_tracked` among them)."""
    network = bare(network)
    still = [name for name, _ in network.named_parameters() if name not in phase.trainable]
    return still + [name for name, _ in network.named_buffers() if name.rpartition(".")[0] in phase.held]


@dataclass(eq=False, repr=False)
class _Keeper:
    """Stands in for one module's `train` method; `held` are names of modules in it, "" for itself."""

    module: nn.Module
    held: frozenset[str]
    handle: RemovableHandle | None = None

    def __call__(self, mode: bool = True) -> nn.Module:
        type(self.module).train(self.module, mode)
        _hold(self.module, self.held)
        return self.module

    def before_forward(self, module: nn.Module, _: Any) -> None:
        # Inside torch.compile the modes are part of the graph's guards and must not be written; `train` has seen to it.
        if not is_compiling() and module.training:
            _hold(module, self.held)


def _keep(module: nn.Module, held: frozenset[str]) -> None:
    keeper = _Keeper(module=module, held=held)
    keeper.handle = module.register_forward_pre_hook(keeper.before_forward)
    # Past nn.Module.__setattr__, which mypy knows only for parameters, buffers and modules.
    module.__dict__["train"] = keeper


def _mode_matters(module: nn.Module) -> bool:
    kind: Any = type(module)
    return bool(module._buffers) or _reads_mode(kind)


@cache
def _reads_mode(kind: Any) -> bool:
    """Whether any method of a class of modules, below nn.Module's own, speaks of `training`."""
    below = kind.__mro__[: kind.__mro__.index(nn.Module)]
    methods = [unwrap(value) for each in below for value in vars(each).values() if callable(value)]
    return any("training" in method.__code__.co_names for method in methods if hasattr(method, "__code__"))


def _hold(network: nn.Module, held: Collection[str]) -> None:
    # At every step: one walk through the modules takes a tenth of looking each up by its name.
    for name, module in network.named_modules(remove_duplicate=False):
        if module.training and name in held:
            # The flag itself, not eval(): each name is listed, and eval() would go down the whole subtree every time.
            module.training = False
