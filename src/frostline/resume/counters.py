"""Lightning's counters of epochs, batches and steps, and what they must be after a number of optimizer steps."""

from typing import Any

import lightning

from frostline.data.datamodule import ImageDataModule
from frostline.data.order import position_after


def datamodule_of(trainer: lightning.Trainer) -> ImageDataModule:
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, ImageDataModule):
        raise ValueError("ExactResume needs an ImageDataModule: without it the order of samples is not known.")
    return datamodule


def check_position(trainer: lightning.Trainer, batch_idx: int) -> None:
    """Whether Lightning's counters of epochs and batches are those that `global_step` means.

    Raises:
        ValueError: they are not.
    """
    batches = datamodule_of(trainer).batches_per_epoch
    place = position_after(trainer.global_step, batches=batches, accumulate=trainer.accumulate_grad_batches)
    if place != (trainer.current_epoch, batch_idx):
        raise ValueError(
            f"{trainer.global_step} optimizer steps mean batch {place[1]} of epoch {place[0]}, but the trainer is at "
            f"batch {batch_idx} of epoch {trainer.current_epoch}: the run would see the wrong images. Was the rest of "
            "an epoch skipped (`on_train_batch_start` returned -1), or a loop's counter changed?"
        )


def rewrite_counters(loops: dict[str, Any], *, step: int, batches: int, accumulate: int) -> None:
    """Set the fit loop's counters in a checkpoint to what `step` optimizer steps mean, in place.

    Args:
        loops: `checkpoint["loops"]["fit_loop"]`.
        batches: training batches of one epoch.
    """
    epoch, batch = position_after(step, batches=batches, accumulate=accumulate)
    steps_per_epoch = -(-batches // accumulate)
    step_in_epoch = step % steps_per_epoch
    if batch == 0 and step and loops["epoch_progress"]["current"]["processed"] < epoch:
        # The epoch's batches are done, but not its end: validation and the hooks of its end are still to come.
        epoch, batch, step_in_epoch = epoch - 1, batches, steps_per_epoch
    begun = epoch + (batch > 0)
    for counts in loops["epoch_progress"].values():
        counts.update(ready=begun, started=begun, processed=epoch, completed=epoch)
    progress = loops["epoch_loop.batch_progress"]
    _set(progress["total"], epoch * batches + batch)
    _set(progress["current"], batch)
    progress["is_last_batch"] = batch == batches
    for counts in loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"].values():
        _set(counts["total"], step)
        _set(counts["current"], step_in_epoch)
    for counts in loops["epoch_loop.val_loop.batch_progress"].values():
        if isinstance(counts, dict):
            _set(counts, 0)
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step


def _set(counts: dict[str, int], value: int) -> None:
    counts.update(dict.fromkeys(counts, value))
