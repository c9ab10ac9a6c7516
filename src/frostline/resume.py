"""Resume a fit so exactly that the weights come out bit-identical, however often and wherever it was interrupted.

Three things make that up. The datamodule's batches depend on the seed and `global_step` alone. This callback keeps the
random state of every rank, and the sums of the epoch's metrics, in the checkpoint, and restores the random state at the
first training batch, after everything that Lightning draws while it starts. And it rewrites the loop counters of the
checkpoint from `global_step`: Lightning 2.6.6's own counters are off after a second resume (measured: a job of 48 steps
ran 58), without a word.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from frostline.data.datamodule import ImageDataModule
from frostline.data.order import position_after
from frostline.data.seeding import stable_seed

KEY = "frostline_resume"


def random_state() -> dict[str, Any]:
    """The state of torch's, numpy's and Python's generators, in types that load with `weights_only=True`."""
    numpy_state: Any = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state(),
        # Asking an unused CUDA for its state would start it, which takes 300 MB of the device.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": random.getstate(),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Undo what was drawn since `random_state` gave this state."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    kept = state["numpy"]
    key = kept["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, kept["pos"], kept["has_gauss"], kept["gauss"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def metric_states(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """The sums so far of every torchmetrics metric in a module that has some, by the metric's name."""
    return {
        name: {"updates": metric._update_count, "state": {key: _copied(value) for key, value in state.items()}}
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and metric._update_count and (state := metric.metric_state)
    }


def restore_metric_states(module: torch.nn.Module, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Let metrics go on from what `metric_states` gave; those that the module no longer has are left out."""
    for name, metric in module.named_modules():
        if isinstance(metric, Metric) and name in states:
            for key, value in states[name]["state"].items():
                setattr(metric, key, _copied(value, metric.device))
            metric._update_count, metric._computed = states[name]["updates"], None


def _copied(value: Any, device: torch.device | None = None) -> Any:
    if isinstance(value, list):
        return [_copied(item, device) for item in value]
    return value.detach().to(device=device or value.device, copy=True)


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
            run whose counters of batches and epochs are not those of its `global_step`.
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
            _datamodule(trainer)

    # Keeping the state.

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._let_save()
        if self._restore is not None:
            restore_random_state(self._restore)
            self._restore = None
        if batch_idx % trainer.accumulate_grad_batches == 0 and not trainer.fit_loop._skip_backward:
            _check_place(trainer, batch_idx)
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

    def _let_save(self) -> None:
        for saver, step in self._saved_steps:
            saver._last_global_step_saved = step
        self._saved_steps = []

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._let_save()
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
        # The other ranks may not be on their way to a checkpoint: to gather from them would wait for ever.
        self._only_this_rank = True
        self._let_save()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        progress: Any = trainer.fit_loop.epoch_progress.current
        state = self._state_to_keep(trainer.global_step, pl_module)
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
            "order": _datamodule(trainer).order_key,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "batches_per_epoch": _datamodule(trainer).batches_per_epoch,
        }

    @staticmethod
    def _state(pl_module: lightning.LightningModule) -> dict[str, Any]:
        return {**random_state(), "metrics": metric_states(pl_module)}

    def _state_to_keep(self, step: int, pl_module: lightning.LightningModule) -> Mapping[str, Any]:
        if self._restore is not None:
            # Resumed, and not one batch trained since.
            return self._restore
        if self._before_validation is not None:
            return self._before_validation
        if self._step_start is not None and self._step_start[0] == step:
            return self._step_start[1]
        return self._state(pl_module)

    # Taking it up again.

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != "fit":
            return
        datamodule = _datamodule(trainer)
        kept = checkpoint.get(KEY)
        if kept is None:
            rank_zero_warn(
                "The checkpoint was written without ExactResume and holds no random state: training goes on at the "
                "right sample, but not bit for bit as it would have."
            )
        else:
            self._check_order(trainer, kept)
            self._restore = self._own_state(trainer, pl_module, kept, checkpoint["global_step"])
        _take_up_early_stopping(trainer, checkpoint)
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
        self._let_save()
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
        now = {
            **_datamodule(trainer).order_key,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "batches per epoch": _datamodule(trainer).batches_per_epoch,
        }
        then = {
            **kept["order"],
            "accumulate_grad_batches": kept["accumulate_grad_batches"],
            "batches per epoch": kept["batches_per_epoch"],
        }
        changed = [f"{key} {then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value]
        if changed:
            raise ValueError(
                f"The run cannot be resumed with another order of samples ({'; '.join(changed)}). Keep these as they "
                "were, or start a new run from the checkpoint's weights."
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
            fresh["metrics"] = _summed(pl_module, [state.get("metrics", {}) for state in states])
        return fresh


def _summed(module: torch.nn.Module, ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metric states of several ranks as those of one; metrics that cannot be reduced are left out."""
    found: dict[str, Any] = {}
    for name, metric in module.named_modules():
        states = [rank[name] for rank in ranks if name in rank]
        reductions: dict[str, Any] = dict(metric._reductions) if isinstance(metric, Metric) and states else {}
        if reductions and all(callable(reduce) for reduce in reductions.values()):
            state = {
                key: reduce(torch.stack([one["state"][key] for one in states]))
                for key, reduce in reductions.items()
                if not isinstance(states[0]["state"][key], list)
            }
            if len(state) == len(reductions):
                found[name] = {"updates": sum(one["updates"] for one in states), "state": state}
    return found


def _take_up_early_stopping(trainer: lightning.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Let a run that had stopped early stay stopped, unless its patience is larger now."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = checkpoint["callbacks"].get(callback.state_key) if isinstance(callback, EarlyStopping) else None
        if state is not None:
            state["patience"] = callback.patience  # Lightning would go on with the checkpoint's
            trainer.should_stop = trainer.should_stop or state["wait_count"] >= callback.patience


def _check_place(trainer: lightning.Trainer, batch_idx: int) -> None:
    """Whether Lightning's counters of epochs and batches are those that `global_step` means.

    Raises:
        ValueError: they are not.
    """
    batches = _datamodule(trainer).batches_per_epoch
    place = position_after(trainer.global_step, batches=batches, accumulate=trainer.accumulate_grad_batches)
    if place != (trainer.current_epoch, batch_idx):
        raise ValueError(
            f"{trainer.global_step} optimizer steps mean batch {place[1]} of epoch {place[0]}, but the trainer is at "
            f"batch {batch_idx} of epoch {trainer.current_epoch}: the run would see the wrong images. Was the rest of "
            "an epoch skipped (`on_train_batch_start` returned -1), or a loop's counter changed?"
        )


class ChangedOptimizer(Callback):
    """Lets new values of an optimizer hold in a resumed run, where Lightning restores the checkpoint's.

    Args:
        values: argument of the optimizer -> its value in the checkpoint and now.
        fused: whether to take torch's fused form.
    """

    def __init__(self, *, values: Mapping[str, tuple[Any, Any]], fused: bool) -> None:
        self.values = dict(values)
        self.fused = fused

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                if "fused" in group:
                    group["fused"] = self.fused or None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for name, (before, now) in self.values.items():
                    # A group that weight decay leaves out has 0, and keeps it.
                    if name in group and (name != "weight_decay" or group[name] == before):
                        group["initial_lr" if name == "lr" else name] = tuple(now) if isinstance(now, list) else now
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, LambdaLR):
                continue
            groups = scheduler.optimizer.param_groups
            scheduler.base_lrs = [group["initial_lr"] for group in groups]
            for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
                group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)


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


def _datamodule(trainer: lightning.Trainer) -> ImageDataModule:
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, ImageDataModule):
        raise ValueError("ExactResume needs an ImageDataModule: without it the order of samples is not known.")
    return datamodule
