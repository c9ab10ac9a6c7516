"""Batch-norm statistics estimated anew on other data, for `batch_norm: recalibrate`."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from frostline.freezing.resolved import is_batch_norm
from frostline.freezing.stages import bare


def recalibrate(
    network: nn.Module, names: Collection[str], *, forward: Callable[[Any], Any], batches: Iterable[Any]
) -> int:
    """Estimate the running statistics of some batch norms as plain averages over batches, and over all ranks.

    Everything else is in eval mode meanwhile, and every mode is put back afterwards. Every rank must give the same
    number of batches.

    Args:
        names: the batch norms.
        forward: runs one batch through the network.

    Returns:
        The number of batches.

    Raises:
        ValueError: there was no batch.
    """
    network = bare(network)
    norms: list[Any] = [network.get_submodule(name) for name in sorted(names)]
    norms = [norm for norm in norms if is_batch_norm(norm) and norm.running_mean is not None]
    if not norms:
        return 0
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    count = 0
    try:
        for module in modes:
            module.training = False
        for norm in norms:
            norm.reset_running_stats()
            # None is torch's word for a cumulative average.
            norm.momentum, norm.training = None, True
        with torch.no_grad():
            for batch in batches:
                forward(batch)
                count += 1
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
    if count == 0:
        raise ValueError("`batch_norm: recalibrate` needs training data, and there was no batch.")
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for norm in norms:
            for statistic in (norm.running_mean, norm.running_var):
                dist.all_reduce(statistic)
                statistic /= dist.get_world_size()
    return count
