"""The self-check after a backward: what trains has a gradient, what is frozen has none, all ranks have the same."""

from collections.abc import Collection

import torch
import torch.distributed as dist
from torch import nn

from frostline.freezing.audit import fingerprint, is_sharded
from frostline.freezing.resolved import ResolvedPhase
from frostline.freezing.stages import bare


class GradientCheckFailed(RuntimeError):  # noqa: N818 - it says what happened
    """The gradients are not what the phase says they should be."""


def check_gradients(network: nn.Module, phase: ResolvedPhase, *, allow_unused: Collection[str] = ()) -> None:
    """Check the gradients of a finished (under DDP: reduced) backward against a phase.

    Every rank takes part and every rank raises, so that none waits for another for ever.

    Args:
        allow_unused: names of parameters that may go without a gradient.

    Raises:
        GradientCheckFailed: the message names the parameters.
    """
    parameters = dict(bare(network).named_parameters())
    training = [name for name in parameters if name in phase.trainable]
    missing = [name for name in training if parameters[name].grad is None and name not in allow_unused]
    stray = [name for name, entry in parameters.items() if name not in phase.trainable and entry.grad is not None]
    unequal = [] if is_sharded(network) else _unequal(parameters, training)
    problems = [f"{', '.join(missing)}: in training, but without a gradient after the backward. Either the loss does "
                "not depend on it (freeze it, or name it in `allow_unused`), or the path to it is cut (`no_grad`, "
                "`detach`)"] if missing else []  # fmt: skip
    if stray:
        problems.append(f"{', '.join(stray)}: frozen, but with a gradient")
    if unequal:
        problems.append(f"{', '.join(unequal)}: the ranks have different gradients, so they would drift apart")
    if _anywhere(bool(problems), next(iter(parameters.values())).device):
        said = "; ".join(problems) or "another rank found a fault and names it"
        raise GradientCheckFailed(f"Phase `{phase.name}`: {said}.")


def _unequal(parameters: dict[str, nn.Parameter], names: list[str]) -> list[str]:
    """Names of the gradients that differ between ranks."""
    if not _distributed():
        return []
    gradients = [parameters[name].grad for name in names]
    marks = [0 if gradient is None else fingerprint(gradient) >> 65 for gradient in gradients]  # 63 bits of it
    own = torch.tensor(marks, dtype=torch.int64, device=next(iter(parameters.values())).device)
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    differs = torch.stack([entry != everyone[0] for entry in everyone]).any(dim=0).tolist()
    return [name for name, differ in zip(names, differs, strict=True) if differ]


def _anywhere(problem: bool, device: torch.device) -> bool:
    if not _distributed():
        return problem
    flag = torch.tensor(int(problem), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
