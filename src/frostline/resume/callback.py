"""The callback that keeps and restores the state of a fit.

Three things make a resume exact. The datamodule's batches depend on the seed and `global_step` alone. This callback
writes the random state of every rank, and the sums of the epoch's metrics, into the checkpoint, and restores the random
state at the first training batch, after everything that Lightning draws while it starts. And it rewrites the loop
counters of the checkpoint from `global_step`: Lightning 2.6.6's own counters are wrong after a second resume (measured:
a job of 48 steps ran 58), without a warning.
"""

import random
from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.utilities import rank_zero_warn

from frostline.data.seeding import stable_seed
from frostline.data.splits import NAMES_AND_LABELS
from frostline.resume.counters import check_position, datamodule_of, rewrite_counters
from frostline.resume.state import (
    metric_states,
    random_state,
    restore_metric_states,
    restore_random_state,
    summed_metric_states,
)

KEY = "frostline_resume"


class ExactResume(Callback):
    """Makes `trainer.fit(ckpt_path=…)` continue as if the run had never stopped; needs an `ImageDataModule`.

    It holds for checkpoints written at any step, mid-epoch or at an epoch's last batch, before or after validation, and
    for chains of resumes. A validation that was due when the checkpoint was written is run first. Validation draws
    nothing from training's random state, so that it does not matter how often it ran. The epoch's torchmetrics go on
    from where they were. `ModelCheckpoint` writes nothing between the batches of one optimizer step.

    What it cannot undo: batch-norm statistics that were changed by a batch in whose middle an exception struck. With
    another number of ranks the batches are the same, but each rank starts from a new random state, and says so.

    Raises:
        ValueError: on loading a checkpoint of a run whose samples came in another order (seed, batch size, data); in a
            run whose counters of batches and epochs are not those of its `global_step`, or that would validate between
            the batches of one optimizer step.
    """

    def __init__(self) -> None:
        self._restore: Mapping[str, Any] | None = None
        self._saved_steps: list[tuple[ModelCheckpoint, int]] = []
        self._loaded: dict[str, Any] | None = None
        self._step_start: tuple[int, dict[str, Any]] | None = None
        self._before_validation: dict[str, Any] | None = None
        self._validated_step: int | None = None
        self._only_this_rank = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            datamodule_of(trainer)

    # Writing the state.

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._allow_saving()
        if self._restore is not None:
            restore_random_state(self._restore)
            self._restore = None
        if batch_idx % trainer.accumulate_grad_batches == 0 and not trainer.fit_loop._skip_backward:
            check_position(trainer, batch_idx)
        # What loggers take for the step: Lightning counts one too many where a resume skips a finished validation.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        if batch_idx % trainer.accumulate_grad_batches == 0:
            # A checkpoint written on an exception within this step resumes before it.
            self._step_start = trainer.global_step, self._state(pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop._should_accumulate():
            # `ModelCheckpoint` comes after this; in a resumed run it does not know that the step is saved already.
            savers = [found for found in trainer.checkpoint_callbacks if isinstance(found, ModelCheckpoint)]
            self._saved_steps = [(saver, saver._last_global_step_saved) for saver in savers]
            for saver in savers:
                saver._last_global_step_saved = trainer.global_step

    def _allow_saving(self) -> None:
        for saver, step in self._saved_steps:
            saver._last_global_step_saved = step
        self._saved_steps = []

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._allow_saving()
        self._before_validation = self._state(pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._before_validation is not None:
            restore_random_state(self._before_validation)
            self._before_validation = None
        if not trainer.sanity_checking:
            self._validated_step = trainer.global_step

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # The other ranks may not reach a checkpoint: gathering from them would hang.
        self._only_this_rank = True
        self._allow_saving()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        progress: Any = trainer.fit_loop.epoch_progress.current
        state = self._state_to_write(trainer.global_step, pl_module)
        states: list[Any] = [state]
        if trainer.world_size > 1 and not self._only_this_rank:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, state)
        checkpoint[KEY] = {
            "random_states": states,
            "world_size": trainer.world_size,
            "validated": self._validated_step == trainer.global_step,
            # Within on_train_epoch_end: schedulers that watch a metric take their step only after it.
            "plateau_due": progress.processed > progress.completed,
            "metrics": {key: value.detach().cpu() for key, value in trainer.callback_metrics.items()},
            "order": datamodule_of(trainer).order_key,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "batches_per_epoch": datamodule_of(trainer).batches_per_epoch,
        }

    @staticmethod
    def _state(pl_module: lightning.LightningModule) -> dict[str, Any]:
        return {**random_state(), "metrics": metric_states(pl_module)}

    def _state_to_write(self, step: int, pl_module: lightning.LightningModule) -> Mapping[str, Any]:
        if self._restore is not None:
            # Resumed, and not one batch trained since.
            return self._restore
        if self._before_validation is not None:
            return self._before_validation
        if self._step_start is not None and self._step_start[0] == step:
            return self._step_start[1]
        return self._state(pl_module)

    # Restoring it.

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != "fit":
            return
        datamodule = datamodule_of(trainer)
        kept = checkpoint.get(KEY)
        if kept is None:
            rank_zero_warn(
                "The checkpoint was written without ExactResume and holds no random state: training goes on at the "
                "right sample, but not bit for bit as it would have."
            )
        else:
            self._check_order(trainer, kept)
            self._restore = self._own_state(trainer, pl_module, kept, checkpoint["global_step"])
        _restore_early_stopping(trainer, checkpoint)
        self._loaded = kept or {"plateau_due": False, "metrics": {}}
        rewrite_counters(
            checkpoint["loops"]["fit_loop"],
            step=checkpoint["global_step"],
            batches=datamodule.batches_per_epoch,
            accumulate=trainer.accumulate_grad_batches,
        )
        self._validated_step = checkpoint["global_step"] if kept is None or kept["validated"] else None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._only_this_rank = False
        _check_validation_interval(trainer)
        if self._loaded is None:
            return
        kept, self._loaded = self._loaded, None
        trainer._logger_connector._callback_metrics.update(kept["metrics"])
        epoch_loop = trainer.fit_loop.epoch_loop
        val_loop = epoch_loop.val_loop
        # Lightning would hold back the step of schedulers that watch a metric for a whole epoch, for want of metrics.
        trainer.fit_loop._restarting = False
        if self._restore is not None and trainer.fit_loop.restarted_mid_epoch:
            restore_metric_states(pl_module, self._restore.get("metrics", {}))
        if not trainer.fit_loop.restarted_mid_epoch:
            if kept["plateau_due"]:
                progress = trainer.fit_loop.epoch_progress.current
                progress.completed -= 1
                epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
                progress.completed += 1
            return
        due = self._validated_step != trainer.global_step and self._validation_due(trainer)
        if due:
            val_loop._restart_stage = "restarted_mid_evaluation"
            epoch_loop._batches_that_stepped = trainer.global_step - 1
        elif epoch_loop.batch_progress.current.ready >= trainer.num_training_batches:
            # Nothing of the epoch is left but its end.
            val_loop._has_run = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._allow_saving()
        # An epoch of which only the end was left ran no batch that would have cleared this.
        trainer.fit_loop.epoch_loop._restarting = False
        trainer.fit_loop.epoch_loop.val_loop._restarting = False

    @staticmethod
    def _validation_due(trainer: lightning.Trainer) -> bool:
        loop = trainer.fit_loop.epoch_loop
        assert trainer.fit_loop._data_fetcher is not None
        return bool(loop._should_check_val_fx(trainer.fit_loop._data_fetcher))

    @staticmethod
    def _check_order(trainer: lightning.Trainer, kept: Mapping[str, Any]) -> None:
        now: dict[str, Any] = {
            **datamodule_of(trainer).order_key,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "batches per epoch": datamodule_of(trainer).batches_per_epoch,
        }
        then = {
            **kept["order"],
            "accumulate_grad_batches": kept["accumulate_grad_batches"],
            "batches per epoch": kept["batches_per_epoch"],
        }
        now[NAMES_AND_LABELS] = now.get(NAMES_AND_LABELS) if NAMES_AND_LABELS in then else None  # older checkpoints
        changed = [f"{key} {then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value]
        if changed:
            raise ValueError(
                f"The run cannot be resumed with other training images or in another order ({'; '.join(changed)}). "
                "Keep these, or start a new run from the checkpoint's weights (init_from)."
            )

    @staticmethod
    def _own_state(
        trainer: lightning.Trainer, pl_module: lightning.LightningModule, kept: Mapping[str, Any], step: int
    ) -> Mapping[str, Any]:
        states = kept["random_states"]
        if len(states) == trainer.world_size:
            own: Mapping[str, Any] = states[trainer.global_rank]
            return own
        rank_zero_warn(
            f"The checkpoint holds the random states of {len(states)} of its {kept['world_size']} ranks, and there are "
            f"{trainer.world_size} now: the samples come in the same order, but the run is not bit-identical."
        )
        before = random_state()
        seed = stable_seed("resume", step, trainer.global_rank)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        fresh = random_state()
        restore_random_state(before)
        if trainer.is_global_zero and len(states) == kept["world_size"]:
            fresh["metrics"] = summed_metric_states(pl_module, [state.get("metrics", {}) for state in states])
        return fresh


class TimeLimit(Timer):
    """Lightning's Timer, but it ends a run after an optimizer step: no resume trains half a step's batches twice."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, *args, **kwargs)


def _check_validation_interval(trainer: lightning.Trainer) -> None:
    """Raises ValueError where a validation, and its checkpoint, would come between the batches of one step."""
    every, accumulate, batches = trainer.val_check_batch, trainer.accumulate_grad_batches, trainer.num_training_batches
    through_epochs = trainer.check_val_every_n_epoch is None
    if not isinstance(every, int) or not trainer.enable_validation or every % batches == 0:
        return
    if every % accumulate or (through_epochs and batches % accumulate):
        raise ValueError(
            f"val_check_interval={trainer.val_check_interval}: means {every} of {batches} batches, which must be a "
            f"multiple of accumulate_grad_batches={accumulate}{' and so must an epoch' * through_epochs}: a run cannot "
            "be resumed between the batches of one optimizer step."
        )


def _restore_early_stopping(trainer: lightning.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Let a run that had stopped early stay stopped, unless its patience is larger now."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = checkpoint["callbacks"].get(callback.state_key) if isinstance(callback, EarlyStopping) else None
        if state is not None:
            state["patience"] = callback.patience  # Lightning would go on with the checkpoint's
            trainer.should_stop = trainer.should_stop or state["wait_count"] >= callback.patience
