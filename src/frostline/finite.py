"""Values that are not finite (NaN, infinity): what holds them, and the one message about a run that has them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

CHECK_EVERY_N_BATCHES = 50


def not_finite(state: Any) -> list[str]:
    """The names (`fc.weight`, `0.state.3.exp_avg`) of the tensors in nested mappings and sequences that hold NaN or
    infinity."""
    tensors = [(name, tensor) for name, tensor in _tensors(state, "") if tensor.numel()]
    if not tensors:
        return []
    # Verdicts are gathered on their device: one wait for a GPU, not one a tensor.
    finite = [torch.isfinite(tensor.detach()).all() for _, tensor in tensors]
    by_device: dict[torch.device, list[Tensor]] = {}
    for verdict in finite:
        by_device.setdefault(verdict.device, []).append(verdict)
    if all(bool(torch.stack(verdicts).all()) for verdicts in by_device.values()):
        return []
    return [name for (name, _), verdict in zip(tensors, finite, strict=True) if not verdict]


def check_finite(source: str, state: Mapping[str, Any]) -> None:
    """Refuse weights that a file holds.

    Raises:
        ValueError: one is NaN or infinite; names the file and the tensors.
    """
    if names := not_finite(state):
        raise ValueError(
            f"{source}: holds NaN or infinity in {_listed(names)}. The training that wrote it diverged, or the file is "
            "corrupt; use an earlier one"
        )


def check_loss(loss: Tensor, name: str, *, images: Tensor, batch_idx: int, step: int, epoch: int) -> None:
    """Stop at a loss that is not finite, before it reaches the weights.

    Args:
        images: the batch that it is of.

    Raises:
        FloatingPointError: it is NaN or infinite.
    """
    # Reading the value from a GPU waits for it, so there it is read every few batches only.
    if loss.is_cuda and batch_idx % CHECK_EVERY_N_BATCHES:
        return
    if not torch.isfinite(loss):
        raise diverged(f"{name} became {loss.item()}", step=step, epoch=epoch, images=images)


def check_state(checkpoint: Mapping[str, Any], *, step: int, epoch: int) -> None:
    """Refuse to write a checkpoint with weights, statistics or optimizer state that are not finite.

    Raises:
        FloatingPointError: a value is NaN or infinite; names its tensor.
    """
    kept = {key: checkpoint[key] for key in ("state_dict", "optimizer_states") if key in checkpoint}
    if names := not_finite(kept):
        raise diverged(f"{_listed(names)} became NaN or infinite", step=step, epoch=epoch)


def diverged(what: str, *, step: int, epoch: int, images: Tensor | None = None) -> FloatingPointError:
    """The error of a run whose loss or weights are NaN or infinite.

    Args:
        what: such as "The loss became nan".
        images: the batch (batch, 3, height, width) that showed it, where one did.
    """
    broken = 0
    if images is not None and images.is_floating_point() and len(images):
        broken = int((~torch.isfinite(images.flatten(1))).any(dim=1).sum())
    if broken:
        reason = f"Images of the batch that hold NaN or infinity: {broken}. Correct them or leave them out"
    else:
        reason = (
            "The last checkpoint, if any, is from before. A smaller learning rate (lr=…), gradient_clip_val=1 or "
            "precision='32-true' may help"
        )
    return FloatingPointError(f"{what} at step {step} (epoch {epoch}). {reason}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Mapping | list | tuple):
        children = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, value in children:
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, Tensor) and state.is_floating_point():
        yield name, state
