"""Numbers that end a training: NaN and infinity, and a batch norm's one value per channel, which has no variance."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler

from frostline.freezing.resolved import ResolvedPolicy
from frostline.modes import eval_mode

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


def smallest_batch(loader: Any) -> int | None:
    """Images in the smallest batch of this process in an epoch; None where it cannot be known beforehand."""
    sampler = getattr(loader, "batch_sampler", None)
    known = getattr(sampler, "smallest_batch", None)
    if known is not None or not isinstance(sampler, BatchSampler):
        return known
    try:
        length = len(sampler.sampler)  # type: ignore[arg-type]
    except TypeError:
        return None
    rest = 0 if sampler.drop_last else length % sampler.batch_size
    return rest or sampler.batch_size


@torch.no_grad()
def single_valued(network: nn.Module, resolved: ResolvedPolicy, inputs: Tensor, *, processes: int) -> list[str]:
    """The batch norms that train in some phase and see one value per channel of one image.

    Args:
        inputs: one image as the network takes it, (1, 3, height, width).
        processes: those that a synchronised batch norm adds up over.
    """
    recalibrated = resolved.phases[0].frozen_batch_norms if resolved.policy.batch_norm == "recalibrate" else ()
    found: list[str] = []
    handles = []
    for name, module in network.named_modules():
        trains = name in recalibrated or any(name not in phase.eval_modules for phase in resolved.phases)
        synchronised = isinstance(module, nn.SyncBatchNorm) and processes > 1
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and trains and not synchronised:

            def note(_: nn.Module, arguments: tuple[Tensor, ...], name: str = name) -> None:
                if arguments[0].numel() == arguments[0].shape[1]:
                    found.append(name)

            handles.append(module.register_forward_pre_hook(note))
    try:
        with eval_mode(network):
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(found))


def check_batches(loader: Any, image: Tensor, network: nn.Module, resolved: ResolvedPolicy, *, processes: int) -> None:
    """Refuse a training loader with a batch of one image that a batch norm would train on.

    Args:
        image: one as the network takes it, (1, 3, height, width).

    Raises:
        ValueError: names the batch norms, and what to change.
    """
    if smallest_batch(loader) == 1 and (names := single_valued(network, resolved, image, processes=processes)):
        raise one_value_error(names, processes=processes)


def one_value_error(names: list[str], *, processes: int) -> ValueError:
    """What is wrong and what to type; `names` may be empty where they are not known."""
    which = f"`{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "one"
    least = 2 * processes
    return ValueError(
        f"batch_size: a batch norm that trains ({which}) would see one value per channel in a batch of one image, "
        f"which has no variance. Use batch_size={least} or more"
        f"{f' ({processes} processes share it)' if processes > 1 else ''}; accumulating gradients does not help. Or "
        "train on larger images (image_size=…), or freeze the batch norms (batch_norm='frozen' in the freezing policy)"
    )


@contextmanager
def one_value_explained(*, processes: int) -> Iterator[None]:
    """Turn torch's error about such a batch into `one_value_error`."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise one_value_error([], processes=processes) from error
