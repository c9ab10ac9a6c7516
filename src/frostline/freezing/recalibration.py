"""The batches on which frozen batch norms are recalibrated, taken without disturbing the run they are taken from."""

import copy
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader


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
