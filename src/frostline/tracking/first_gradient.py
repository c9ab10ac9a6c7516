"""The notebook's look at one gradient: None before the first backward pass, values after it."""

import logging
from typing import Any

import lightning
from torch import Tensor

log = logging.getLogger(__name__)


class FirstGradient(lightning.Callback):
    """Prints the gradient of the network's first parameter around the first backward pass, and which tensors the first
    step changed.

    Attributes:
        before: the gradient before the first backward pass.
        after: a copy of it after, None where the parameter is frozen.
        changed: names of the parameters that the first optimizer step changed.
    """

    def __init__(self) -> None:
        self.before: Tensor | None = None
        self.after: Tensor | None = None
        self.changed: list[str] | None = None
        self._values: dict[str, Tensor] | None = None  # of the weights; None before the first backward pass

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        if self._values is None:
            name, parameter = next(pl_module.named_parameters())
            self.before = parameter.grad
            log.info("loss: %s", loss.item())
            log.info("%s.grad before backward: %s", name, self.before)

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._values is None:
            self._values = {name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()}
            name, parameter = next(pl_module.named_parameters())
            self.after = None if parameter.grad is None else parameter.grad.detach().clone()
            log.info("%s.grad after backward: %s", name, self.after)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._values and not trainer.fit_loop._should_accumulate():
            now = dict(pl_module.named_parameters())
            self.changed = [name for name, value in self._values.items() if not now[name].equal(value)]
            log.info("changed by the step: %d of %d tensors", len(self.changed), len(now))
            self._values = {}
