"""How long a run will be, and whether its phases fit into it, before there is a Trainer."""

import sys

from frostline.classifier import ImageClassifier
from frostline.config.recommended import AUTO
from frostline.config.training import TrainerSection
from frostline.data.datamodule import ImageDataModule, limited
from frostline.freezing.phase_clock import schedule_warnings, timeline


def run_length(trainer: TrainerSection, data: ImageDataModule) -> tuple[int, int]:
    """Optimizer steps of the run and of an epoch, as `lightning_internals.run_length` reads them from a Trainer."""
    per_epoch = steps_per_epoch(trainer, data.batches_per_epoch)
    return total_steps(trainer, per_epoch), per_epoch


def steps_per_epoch(trainer: TrainerSection, batches: int) -> int:
    """Optimizer steps of an epoch of so many batches under the trainer's limits."""
    limit = int(trainer.fast_dev_run) or trainer.overfit_batches or trainer.limit_train_batches
    return -(-limited(batches, limit) // trainer.accumulate_grad_batches)


def total_steps(trainer: TrainerSection, per_epoch: int) -> int:
    """Optimizer steps of a run whose number of epochs has been chosen."""
    assert trainer.max_epochs != AUTO
    epochs = 1 if trainer.fast_dev_run else trainer.max_epochs
    return min(per_epoch * epochs, trainer.max_steps or sys.maxsize)


def refuse_unreached_phases(classifier: ImageClassifier, trainer: TrainerSection, data: ImageDataModule) -> None:
    """Refuse a run that ends before a phase of its policy begins; not a fast_dev_run, which only tries the code.

    Raises:
        ValueError: names the phases. A phase that waits for a metric may begin, so it is no reason.
    """
    total, per_epoch = run_length(trainer, data)
    spans = timeline(classifier.policy, steps_per_epoch=per_epoch, total_steps=total)
    if not trainer.fast_dev_run and (problems := schedule_warnings(spans, total_steps=total, sure=True)):
        raise ValueError("policy: " + "\n".join(problems))
