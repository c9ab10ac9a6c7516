"""`batch_norm: recalibrate`: the statistics of frozen batch norms, estimated once on the training data."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from frostline.freezing.apply import hold_modes, release_modes
from frostline.freezing.lightning_internals import calibration_batches
from frostline.freezing.report import log_once
from frostline.freezing.resolved import ResolvedPhase, is_batch_norm
from frostline.freezing.selectors import bare


def recalibrate_in_fit(
    trainer: "pl.Trainer",
    network: nn.Module,
    phase: ResolvedPhase,
    *,
    inputs: Callable[[Any], Any] | None,
    limit: int,
) -> None:
    """Estimate the statistics of a phase's frozen batch norms on the run's training data; every rank must call it.

    Args:
        inputs: a batch -> the network's input; None: the batch's first entry goes through the module's `forward`.
        limit: batches at most.
    """
    module, names = trainer.lightning_module, phase.frozen_batch_norms
    forward: nn.Module = module if inputs is None and is_overridden("forward", module) else network
    take = inputs or first_input
    release_modes(network)
    with isolate_rng(), trainer.precision_plugin.forward_context():
        # The same random numbers in a run and in its repetition, whatever was drawn before.
        torch.manual_seed(trainer.global_rank)
        batches = calibration_batches(trainer, limit=limit)
        count = recalibrate(network, names, forward=lambda batch: forward(take(batch)), batches=batches)
    hold_modes(network, phase)
    log_once(trainer, f"Statistics of {len(names)} frozen batch norms estimated again on {count} batches.")


def recalibrate(
    network: nn.Module, names: Collection[str], *, forward: Callable[[Any], Any], batches: Iterable[Any]
) -> int:
    """Estimate the running statistics of some batch norms as plain averages over batches, and over all ranks.

    All other modules are in eval mode meanwhile, and every mode is restored afterwards. Every rank must give the same
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
            # None is torch's value for a cumulative average.
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


def first_input(batch: Any) -> Any:
    """The network's input in a batch of one of the usual forms: a tensor, or a tuple or list that begins with it.

    Raises:
        ValueError: the batch has another form.
    """
    if isinstance(batch, torch.Tensor):
        return batch
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], torch.Tensor):
        return batch[0]
    form = f"a mapping with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
    raise ValueError(
        f"`batch_norm: recalibrate` cannot find the network's input in a batch ({form}): give FreezingSchedule "
        "inputs=lambda batch: …"
    )
