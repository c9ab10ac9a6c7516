"""Everything of this package that reaches into Lightning's and DDP's internals (Lightning 2.6.6, torch 2.15).

DDP reduces the gradients of those parameters that required one when it was wrapped around the module. The gradients of
parameters that are unfrozen later are not reduced: without an error or a warning, the ranks train different networks.
"""

import copy
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from frostline.nearest import suggest


def check_strategy(trainer: "pl.Trainer", *, phases: int) -> None:
    """Refuse a strategy under which freezing would not hold.

    Raises:
        ValueError: with the reason, and what to use instead.
    """
    strategy = trainer.strategy
    instead = "Use strategy='ddp'."
    if isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(
            "FreezingSchedule does not run under DeepSpeed: it flattens parameters into buffers of its own when it "
            f"starts, so parameters that are unfrozen later are neither reduced nor stepped. {instead}"
        )
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(
            "FreezingSchedule does not run under FSDP1 (FSDPStrategy): it flattens frozen and trainable parameters "
            "into one, which cannot be frozen in part and cannot be audited. Use strategy='ddp', or FSDP2 by "
            "ModelParallelStrategy."
        )
    if isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("static_graph") and phases > 1:
        raise ValueError(
            "DDP with static_graph=True assumes that the same parameters train in every step, but this policy has "
            f"{phases} phases: leave out static_graph, or use a policy of one phase."
        )
    if not isinstance(strategy, DDPStrategy | ModelParallelStrategy | SingleDeviceStrategy):
        raise ValueError(f"FreezingSchedule does not support unfreezing under {type(strategy).__name__}. {instead}")


def rebuild_reducer(trainer: "pl.Trainer") -> None:
    """Wrap the module into DDP again, so that all trainable gradients are reduced; every rank must call it.

    Costs about one broadcast of the model. Does nothing without DDP (FSDP2 reduces all trainable gradients).
    """
    strategy = trainer.strategy
    wrapped = getattr(strategy, "model", None)
    if isinstance(strategy, DDPStrategy) and isinstance(wrapped, DistributedDataParallel):
        # Otherwise the old reducer's hooks fire, too, and reduce every gradient a second time.
        wrapped._remove_autograd_hooks()
        strategy.model = trainer.lightning_module
        strategy.configure_ddp()


def accumulates(trainer: "pl.Trainer") -> bool:
    """Whether the current batch ends without an optimizer step, so that DDP leaves its gradients unreduced."""
    return trainer.fit_loop._should_accumulate()


def skips_backward(trainer: "pl.Trainer") -> bool:
    """Whether StochasticWeightAveraging runs its last epoch, which trains nothing."""
    return trainer.fit_loop._skip_backward


def reset_compiled_graphs(module: nn.Module) -> None:
    """Make torch.compile trace again if anything is compiled: torch before 2.15 may go on with the graph of the frozen
    network, in which unfrozen parameters get no gradient (pytorch #139476)."""
    compiled = getattr(module, "_compiler_ctx", None) is not None or any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )
    if compiled:
        torch.compiler.reset()


def reduced_metric(trainer: "pl.Trainer", name: str, *, phase: str) -> float:
    """A logged value as the mean over all ranks, whether or not the module synchronised it; the same on each rank.

    Raises:
        ValueError: it was not logged.
    """
    metrics = trainer.callback_metrics
    if name not in metrics:
        logged = ", ".join(sorted(metrics)) or "none"
        raise ValueError(
            f"Phase `{phase}` waits for `{name}`, which was not logged; logged are {logged}.{suggest(name, metrics)}"
        )
    strategy = trainer.strategy
    value = metrics[name].detach().to(dtype=torch.float64, device=strategy.root_device)
    return float(strategy.broadcast(strategy.reduce(value, reduce_op="mean")))


def steps_per_epoch(trainer: "pl.Trainer") -> int:
    """Optimizer steps in a training epoch, the last of which may have fewer batches; `sys.maxsize` for a loader without
    a length."""
    if not math.isfinite(trainer.num_training_batches):
        return sys.maxsize
    return max(1, -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches))


def run_length(trainer: "pl.Trainer") -> tuple[int, int]:
    """Optimizer steps of the run and of an epoch; with a loader without a length, the run counts as one epoch."""
    steps = int(trainer.estimated_stepping_batches)
    return steps, steps_per_epoch(trainer) if math.isfinite(trainer.num_training_batches) else steps


def restart_patience(trainer: "pl.Trainer") -> None:
    """Reset the counter of every `EarlyStopping`, and revoke the stop of one whose patience has just run out."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    reasons = {callback.stopping_reason for callback in found} - {EarlyStoppingReason.NOT_STOPPED}
    if reasons == {EarlyStoppingReason.PATIENCE_EXHAUSTED}:
        trainer.should_stop = False
    for callback in found:
        if callback.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
            callback.stopping_reason, callback.stopped_epoch = EarlyStoppingReason.NOT_STOPPED, 0
        callback.wait_count = 0
        callback.best_score = torch.tensor(torch.inf if callback.monitor_op == torch.lt else -torch.inf)


def finish_batch(loops: dict[str, Any]) -> bool:
    """Count the batch at whose end a checkpoint was written as completed: Lightning would skip the validation that was
    due after it.

    Args:
        loops: `checkpoint["loops"]["fit_loop"]`; changed in place.

    Returns:
        Whether there was such a batch; then `resume_validation` is to follow.
    """
    progress = loops["epoch_loop.batch_progress"]
    if progress["current"]["completed"] != progress["current"]["processed"] - 1:
        return False
    for counts in (progress["current"], progress["total"]):
        counts["completed"] = counts["processed"]
    # Of the validation before: its batches would be skipped in the next one.
    evaluated = loops["epoch_loop.val_loop.batch_progress"]["current"]
    evaluated.update(dict.fromkeys(evaluated, 0))
    return True


def resume_validation(trainer: "pl.Trainer") -> None:
    """In `on_train_start`, after `finish_batch`: validate first if that was due."""
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped = trainer.global_step
    assert trainer.fit_loop._data_fetcher is not None
    if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
        loop.val_loop._restart_stage = "restarted_mid_evaluation"
        loop._batches_that_stepped -= 1
    elif loop.batch_progress.current.ready >= trainer.num_training_batches:
        loop.val_loop._has_run = True  # only the epoch's end is left


def end_restart(trainer: "pl.Trainer") -> None:
    """In `on_train_epoch_end`, after `resume_validation`: Lightning keeps these if only the epoch's end was left."""
    trainer.fit_loop.epoch_loop._restarting = trainer.fit_loop.epoch_loop.val_loop._restarting = False


def calibration_batches(trainer: "pl.Trainer", *, limit: int) -> Iterator[Any]:
    """The first batches of another pass over the train loader, on the module's device.

    The loader's and the sampler's own random generators are restored afterwards; the global ones are the caller's.

    Raises:
        ValueError: the run has no DataLoader, or more than one.
    """
    loader, module = trainer.train_dataloader, trainer.lightning_module
    if not isinstance(loader, DataLoader):
        raise ValueError(
            f"`batch_norm: recalibrate` needs one DataLoader for training; this run has {type(loader).__name__}."
        )
    owners = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    generators = {found for owner in owners if isinstance(found := getattr(owner, "generator", None), torch.Generator)}
    states = {generator: generator.get_state() for generator in generators}
    # A copy without an iterator: persistent workers would otherwise be taken away from the running epoch.
    again = copy.copy(loader)
    again._iterator = None
    try:
        for batch in islice(iter(again), min(limit, int(trainer.num_training_batches))):
            yield trainer.strategy.batch_to_device(module._on_before_batch_transfer(batch), dataloader_idx=0)
    finally:
        for generator, state in states.items():
            generator.set_state(state)


def average_exactly(trainer: "pl.Trainer") -> None:
    """Make every WeightAveraging callback of a run leave equal numbers unchanged."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        averaged: Any = getattr(callback, "_average_model", None)
        if isinstance(callback, WeightAveraging) and isinstance(averaged, AveragedModel):
            average: Any = averaged.avg_fn
            if average is not None and not isinstance(average, ExactAverage):
                averaged.avg_fn = ExactAverage(average)


def averages_weights(trainer: "pl.Trainer") -> bool:
    """Whether the run's final weights are an average over its steps."""
    kinds = (StochasticWeightAveraging, WeightAveraging)
    return any(isinstance(entry, kinds) for entry in trainer.callbacks)  # type: ignore[attr-defined]


class ExactAverage:
    """An averaging function for `AveragedModel` that leaves equal numbers unchanged, and takes counters as they are.

    0.999 * w + 0.001 * w rounds, so that Lightning's EMAWeightAveraging changes even weights that never train
    (measured: after 24 steps every frozen convolution differs).
    """

    def __init__(self, average: Callable[[Tensor, Tensor, Any], Tensor]) -> None:
        self.average = average

    def __call__(self, averaged: Tensor, current: Tensor, count: Any) -> Tensor:
        if not current.is_floating_point():  # the batches that a batch norm has seen
            return current
        blended = self.average(averaged, current, count).to(averaged.dtype)
        return torch.where(averaged == current, averaged, blended)


def silence_eval_warning(module: nn.Module, *, frozen: int) -> Any:
    """Silence Lightning's warning of modules in eval mode if exactly as many are as a phase freezes; the filter."""
    if sum(not part.training for part in module.modules()) == frozen > 0:
        warnings.filterwarnings("ignore", message=rf"Found {frozen} module\(s\) in eval mode")
        return warnings.filters[0]
    return None


def restore_eval_warning(silenced: Any) -> None:
    """Remove the filter again."""
    filters: Any = warnings.filters
    if silenced in filters:
        filters.remove(silenced)


class OutermostHooks(pl.Callback):
    """Calls functions before every other callback's first hook of a fit and after their last.

    It is first in the trainer's list until the fit starts and last from then on. Only a module's own `teardown`, the
    last hook that Lightning calls, comes later: it is replaced for its one call.
    """

    def __init__(self, *, begin: Callable[..., None], end: Callable[..., None]) -> None:
        self._begin, self._end = begin, end

    def install(self, trainer: "pl.Trainer", *, first: bool) -> None:
        """Move to one end of the callbacks; a new list, as Lightning may be iterating over the old one."""
        others = [entry for entry in trainer.callbacks if entry is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [self, *others] if first else [*others, self]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._begin(trainer, pl_module)
        self.install(trainer, first=False)

    def on_fit_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._end(trainer)

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if stage != "fit":
            return
        self._end(trainer, again=True)
        own, replaced = pl_module.teardown, pl_module.__dict__.get("teardown")

        def teardown(stage: str) -> None:
            del pl_module.__dict__["teardown"]
            if replaced is not None:
                pl_module.__dict__["teardown"] = replaced
            own(stage)
            self._end(trainer, again=True)

        pl_module.__dict__["teardown"] = teardown
