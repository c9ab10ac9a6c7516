"""How long a run will be, and whether its phases fit into it, before there is a Trainer."""

from frostline.classifier import ImageClassifier
from frostline.config.training import TrainerSection
from frostline.data.datamodule import ImageDataModule, limited
from frostline.freezing.phase_clock import schedule_warnings, timeline


def run_length(trainer: TrainerSection, data: ImageDataModule) -> tuple[int, int]:
    """Optimizer steps of the run and of an epoch, as `lightning_internals.run_length` reads them from a Trainer."""
    limit = int(trainer.fast_dev_run) or trainer.overfit_batches or trainer.limit_train_batches
    per_epoch = -(-limited(data.batches_per_epoch, limit) // trainer.accumulate_grad_batches)
    epochs = 1 if trainer.fast_dev_run else trainer.max_epochs
    return min(per_epoch * epochs, trainer.max_steps or 2**62), per_epoch


def refuse_unreached_phases(classifier: ImageClassifier, trainer: TrainerSection, data: ImageDataModule) -> None:
    """Refuse a run that ends before a phase of its policy begins; not a fast_dev_run, which only tries the code.

    Raises:
        ValueError: names the phases. A phase that waits for a metric may begin, so it is no reason.
    """
    total, per_epoch = run_length(trainer, data)
    spans = timeline(classifier.policy, steps_per_epoch=per_epoch, total_steps=total)
    if not trainer.fast_dev_run and (problems := schedule_warnings(spans, total_steps=total, sure=True)):
        raise ValueError("\n".join(problems))
