"""The batches on which frozen batch norms are recalibrated, taken without disturbing the run they are taken from."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.utils.data import DataLoader

from frostline.freezing.statistics import recalibrate


def recalibrate_frozen(
    trainer: "pl.Trainer",
    network: nn.Module,
    names: Collection[str],
    *,
    inputs: Callable[[Any], Any] | None,
    limit: int,
) -> int:
    """Estimate the statistics of some batch norms on the run's training data; every rank must call it.

    Args:
        inputs: a batch -> what the network takes; None: the batch's first entry goes through the module's `forward`.
        limit: batches at most.

    Returns:
        The number of batches.
    """
    module = trainer.lightning_module
    forward: nn.Module = module if inputs is None and is_overridden("forward", module) else network
    take = inputs or first_input
    with isolate_rng(), trainer.precision_plugin.forward_context():
        # The same numbers in a run and in its repetition, whatever was drawn before.
        torch.manual_seed(trainer.global_rank)
        batches = calibration_batches(trainer, limit=limit)
        return recalibrate(network, names, forward=lambda batch: forward(take(batch)), batches=batches)


def first_input(batch: Any) -> Any:
    """What the forward takes, in the usual forms of a batch: a tensor, or a tuple or list that begins with it.

    Raises:
        ValueError: the batch has another form.
    """
    if isinstance(batch, torch.Tensor):
        return batch
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], torch.Tensor):
        return batch[0]
    form = f"a mapping with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
    raise ValueError(
        f"`batch_norm: recalibrate` cannot tell what of a batch ({form}) the forward takes: give FreezingSchedule "
        "inputs=lambda batch: …"
    )


def calibration_batches(trainer: "pl.Trainer", *, limit: int) -> Iterator[Any]:
    """The first batches of a fresh pass over the train loader, on the module's device.

    The loader's and the sampler's own random generators are put back afterwards; the global ones are the caller's.
    """
    loader, module = trainer.train_dataloader, trainer.lightning_module
    if not isinstance(loader, DataLoader):
        raise ValueError(
            f"`batch_norm: recalibrate` needs one DataLoader for training; this run has {type(loader).__name__}."
        )
    generators = {
        id(found): found
        for owner in (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
        if isinstance(found := getattr(owner, "generator", None), torch.Generator)
    }
    states = {key: generator.get_state() for key, generator in generators.items()}
    # A copy without an iterator: persistent workers would otherwise be taken away from the running epoch.
    again = copy.copy(loader)
    again._iterator = None
    count = min(limit, int(trainer.num_training_batches))
    try:
        for batch in islice(iter(again), count):
            yield trainer.strategy.batch_to_device(module._on_before_batch_transfer(batch), dataloader_idx=0)
    finally:
        for key, generator in generators.items():
            generator.set_state(states[key])
