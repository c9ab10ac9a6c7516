"""Batch norms that would train on one value per channel, which has no variance."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler

from frostline.freezing.resolved import ResolvedPolicy
from frostline.modes import eval_mode


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
        raise refusal(names, processes=processes)


def refusal(names: list[str], *, processes: int) -> ValueError:
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
def explained(*, processes: int) -> Iterator[None]:
    """Turn torch's error about such a batch into `refusal`."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise refusal([], processes=processes) from error
