"""Apply a phase to a network: `requires_grad`, gradients and modes. No other module sets any of the three."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from inspect import unwrap
from typing import Any

from torch import nn
from torch.compiler import is_compiling
from torch.utils.hooks import RemovableHandle

from frostline.freezing.resolved import ResolvedPhase
from frostline.freezing.selectors import bare


def apply_phase(network: nn.Module, phase: ResolvedPhase) -> None:
    """Set a network's flags, gradients and modes for training in a phase, whatever they were before.

    Frozen parameters have no gradient at all: momentum and weight decay change a parameter whose gradient is zero, and
    skip one that has none.
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
    """Put the phase's frozen modules into eval mode, module by module; all others keep their mode."""
    _set_eval(bare(network), phase.eval_modules)


def hold_modes(network: nn.Module, phase: ResolvedPhase) -> None:
    """Keep the phase's frozen modules in eval mode from now on, also after a call of `train()` or a set `training`.

    Overrides the instance's `train()` and applies eval mode in a forward pre-hook, for the network and for each frozen
    module whose mode matters, since `network.layer1.train()` and a call of a part bypass the network's own (1.5 µs a
    module and step: 0.03 ms of a ResNet-18). The guards are attributes of these objects: copies and pickles have them,
    state dicts do not, and no class is changed. Calling again replaces them.
    """
    network = bare(network)
    release_modes(network)
    _guard(network, phase.eval_modules)
    for name, module in network.named_modules(remove_duplicate=False):
        guarded = isinstance(module.__dict__.get("train"), EvalModeGuard)
        if name in phase.eval_modules and not guarded and _mode_matters(module):
            _guard(module, frozenset({""}))
    set_modes(network, phase)


def release_modes(network: nn.Module) -> None:
    """Remove the guards: `train()` is torch's own again."""
    for module in bare(network).modules():
        guard = module.__dict__.get("train")
        if isinstance(guard, EvalModeGuard):
            del module.__dict__["train"]
            if guard.handle is not None:
                guard.handle.remove()


def check_flags(network: nn.Module, phase: ResolvedPhase) -> None:
    """Check that `requires_grad` of every parameter is the phase's.

    Raises:
        RuntimeError: it was changed elsewhere; the message names the parameters.
    """
    parameters = bare(network).named_parameters()
    changed = [name for name, entry in parameters if entry.requires_grad != (name in phase.trainable)]
    if changed:
        raise RuntimeError(
            f"Phase `{phase.name}`: requires_grad of {', '.join(changed)} was changed outside FreezingSchedule; under "
            "DDP the ranks' weights would diverge. Change the policy instead."
        )


def frozen_tensors(network: nn.Module, phase: ResolvedPhase) -> list[str]:
    """Names of the parameters and buffers that must not change in a phase: all that do not train, and the buffers of
    modules in eval mode (running statistics and `num_batches_tracked` among them)."""
    network = bare(network)
    frozen = [name for name, _ in network.named_parameters() if name not in phase.trainable]
    return frozen + [name for name, _ in network.named_buffers() if name.rpartition(".")[0] in phase.eval_modules]


@dataclass(eq=False, repr=False)
class EvalModeGuard:
    """Replaces one module's `train` method; `eval_modules` are names of modules in it, "" for itself."""

    module: nn.Module
    eval_modules: frozenset[str]
    handle: RemovableHandle | None = None

    def __call__(self, mode: bool = True) -> nn.Module:
        type(self.module).train(self.module, mode)
        _set_eval(self.module, self.eval_modules)
        return self.module

    def before_forward(self, module: nn.Module, _: Any) -> None:
        # Inside torch.compile the modes are part of the graph's guards and must not be written; `train` has set them.
        if not is_compiling() and module.training:
            _set_eval(module, self.eval_modules)


def _guard(module: nn.Module, eval_modules: frozenset[str]) -> None:
    guard = EvalModeGuard(module=module, eval_modules=eval_modules)
    guard.handle = module.register_forward_pre_hook(guard.before_forward)
    # Past nn.Module.__setattr__, which mypy knows only for parameters, buffers and modules.
    module.__dict__["train"] = guard


def _mode_matters(module: nn.Module) -> bool:
    kind: Any = type(module)
    return bool(module._buffers) or _reads_mode(kind)


@cache
def _reads_mode(kind: Any) -> bool:
    """Whether any method of a module class, below nn.Module's own, uses `training`."""
    below = kind.__mro__[: kind.__mro__.index(nn.Module)]
    methods = [unwrap(value) for each in below for value in vars(each).values() if callable(value)]
    return any("training" in method.__code__.co_names for method in methods if hasattr(method, "__code__"))


def _set_eval(network: nn.Module, eval_modules: Collection[str]) -> None:
    # At every step: one walk through the modules takes a tenth of looking each up by its name.
    for name, module in network.named_modules(remove_duplicate=False):
        if module.training and name in eval_modules:
            # The flag itself, not eval(): each name is listed, and eval() would set the whole subtree every time.
            module.training = False
