"""New values of an optimizer in a resumed run."""

from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import LambdaLR


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
