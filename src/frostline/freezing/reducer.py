"""What a change of phase means to the trainer's strategy. All that reaches into Lightning and DDP stands here.

DDP reduces the gradients of those parameters that required one when it was wrapped around the module. What thaws later
is reduced by nobody: without an error, without a warning, the ranks train different networks.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frostline.nearest import suggest


def check_strategy(trainer: "pl.Trainer", *, phases: int) -> None:
    """Refuse a strategy under which freezing would not hold what it promises.

    Raises:
        ValueError: with the reason, and what to use instead.
    """
    strategy = trainer.strategy
    instead = "Use strategy='ddp'."
    if isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(
            "FreezingSchedule does not run under DeepSpeed: it flattens parameters into buffers of its own when it "
            f"starts, so what thaws later is neither reduced nor stepped. {instead}"
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
        raise ValueError(f"FreezingSchedule does not know what a thaw means to {type(strategy).__name__}. {instead}")


def check_resume(trainer: "pl.Trainer", *, entered: int) -> None:
    """Refuse a resume that would silently lose optimizer state.

    Args:
        entered: phases that the checkpoint's run had begun.

    Raises:
        ValueError: with the reason, and what to use instead.
    """
    if isinstance(trainer.strategy, ModelParallelStrategy) and entered > 1:
        # Measured: resumed in the second phase, what had thawed went on without its momentum.
        raise ValueError(
            "Under ModelParallelStrategy a run can be resumed in its first phase only: the strategy loads the "
            "optimizer before anybody can tell it what has thawed, and drops the state of what was frozen at first. "
            "Use strategy='ddp', or start a new run from the weights."
        )


def rebuild_reducer(trainer: "pl.Trainer") -> bool:
    """Wrap the module into DDP anew, so that what trains now is reduced; every rank must call it.

    Costs about one broadcast of the model. Does nothing where no DDP is in play (FSDP2 reduces whatever trains).
    """
    strategy = trainer.strategy
    wrapped = getattr(strategy, "model", None)
    if not isinstance(strategy, DDPStrategy) or not isinstance(wrapped, DistributedDataParallel):
        return False
    # Otherwise the old reducer's hooks fire, too, and reduce every gradient a second time.
    wrapped._remove_autograd_hooks()
    strategy.model = trainer.lightning_module
    strategy.configure_ddp()
    return True


def accumulates(trainer: "pl.Trainer") -> bool:
    """Whether the current batch ends without an optimizer step, so that DDP leaves its gradients unreduced."""
    return trainer.fit_loop._should_accumulate()


def skips_backward(trainer: "pl.Trainer") -> bool:
    """Whether StochasticWeightAveraging runs its last epoch, which trains nothing."""
    return trainer.fit_loop._skip_backward


def forget_compiled_graphs(module: nn.Module) -> None:
    """Make torch.compile trace anew, where anything is compiled: torch before 2.15 may go on with the graph of the
    frozen network, in which what has thawed gets no gradient (pytorch #139476)."""
    compiled = getattr(module, "_compiler_ctx", None) is not None or any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )
    if compiled:
        torch.compiler.reset()


def reduced_metric(trainer: "pl.Trainer", name: str, *, asked_by: str) -> float:
    """A logged value as the mean over all ranks, whether or not the module synchronised it; the same on each rank.

    Raises:
        ValueError: nobody logged it.
    """
    metrics = trainer.callback_metrics
    if name not in metrics:
        there = ", ".join(sorted(metrics)) or "none"
        hint = suggest(name, metrics)
        raise ValueError(f"{asked_by} waits for `{name}`, which nobody logged; there are {there}.{hint}")
    strategy = trainer.strategy
    value = metrics[name].detach().to(dtype=torch.float64, device=strategy.root_device)
    return float(strategy.broadcast(strategy.reduce(value, reduce_op="mean")))


def steps_per_epoch(trainer: "pl.Trainer") -> int:
    """Optimizer steps in a training epoch, the last of which may have fewer batches."""
    return max(1, -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches))


def count_patience_again(trainer: "pl.Trainer") -> None:
    """Let every `EarlyStopping` begin to count anew, and take back the stop of one whose patience has just run out."""
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
    """Count the batch in whose end a checkpoint was written as done: Lightning 2.6.6 would leave out the validation
    that was due after it.

    Args:
        loops: `checkpoint["loops"]["fit_loop"]`; changed in place.

    Returns:
        Whether there was such a batch; then `take_up_validation` is to follow.
    """
    progress = loops["epoch_loop.batch_progress"]
    if progress["current"]["completed"] != progress["current"]["processed"] - 1:
        return False
    for counts in (progress["current"], progress["total"]):
        counts["completed"] = counts["processed"]
    return True


def take_up_validation(trainer: "pl.Trainer") -> None:
    """In `on_train_start`, after `finish_batch`: validate first where that was due."""
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped = trainer.global_step
    assert trainer.fit_loop._data_fetcher is not None
    if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
        loop.val_loop._restart_stage = "restarted_mid_evaluation"
        loop._batches_that_stepped -= 1
    elif loop.batch_progress.current.ready >= trainer.num_training_batches:
        loop.val_loop._has_run = True  # nothing of the epoch is left but its end


def end_restart(trainer: "pl.Trainer") -> None:
    """In `on_train_epoch_end`, after `take_up_validation`: an epoch of which only the end was left has not told it."""
    trainer.fit_loop.epoch_loop._restarting = trainer.fit_loop.epoch_loop.val_loop._restarting = False
