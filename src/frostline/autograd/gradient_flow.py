"""Measure the gradients: once at fixed weights, or every n steps of a Lightning training."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from frostline.autograd.diagnose import findings_of
from frostline.autograd.flow import Flow, Measurement, Moments, by_stage
from frostline.freezing.selectors import bare
from frostline.modes import restored
from frostline.numeric_checks import diverged

SHARDED = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")


def measure_gradients(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> list[Flow]:
    """The mean gradient over batches of (images, targets) at fixed weights, its noise, and one step along it.

    One Flow for each parameter. The network, in the mode it is in, its buffers and the optimizer are left as they were
    found, except that the gradients are None.

    Raises:
        ValueError: no batch, or a loss without a graph.
        FloatingPointError: a loss that is NaN or infinite.
    """
    moments, measured = Moments(), 0
    state = copy.deepcopy(optimizer.state_dict())
    with restored(network):
        for images, targets in batches:
            # Not zeros: those would hide a parameter that receives nothing.
            network.zero_grad(set_to_none=True)
            loss = loss_function(network(images), targets)
            if not loss.requires_grad:
                raise ValueError("The loss has no graph: every parameter is frozen, so there is nothing to measure.")
            if not torch.isfinite(loss):
                raise diverged(f"The loss is {loss.item()}", step=measured, epoch=0, images=images)
            loss.backward()
            moments.add(network)
            measured += 1
        if not measured:
            raise ValueError("There is no batch to measure the gradients on.")
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                parameter.grad = moments.mean(name).to(parameter.grad.dtype)
        measurement = Measurement(network, moments=moments)
        optimizer.step()
        flows = measurement.finish(after_step=True)
    optimizer.load_state_dict(state)
    network.zero_grad(set_to_none=True)
    return flows


class GradientFlow(Callback):
    """Log `gradients/<stage>/{norm,mean,maximum,zeros,update_ratio,noise}` every n optimizer steps, to all loggers.

    Values are of the whole step's gradient: accumulated, averaged over ranks, unscaled, before clipping. The noise
    compares it with the step before. A stage without a gradient logs nothing. Between the intervals nothing is
    computed and the device is never waited for. For the length of one step it holds a copy of the weights that train
    and two of their gradients.

    A frozen parameter with a gradient, or a trainable one without, is warned about once per stage.

    attribute: name of the module's attribute that holds the network, as "network"; None is the module itself.
    """

    def __init__(self, *, every_n_steps: int = 50, attribute: str | None = None) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, not {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self.attribute = attribute
        self._moments: Moments | None = None
        self._measurement: Measurement | None = None
        self._warned: set[tuple[str, str]] = set()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if type(trainer.strategy).__name__ in SHARDED:
            raise ValueError(
                f"GradientFlow reads whole gradients, which {type(trainer.strategy).__name__} splits among ranks; "
                "leave the callback out or train with ddp."
            )
        if not trainer.loggers:
            raise ValueError("GradientFlow has no logger to write to; choose one, or leave the callback out.")
        if len(trainer.optimizers) != 1:
            raise ValueError(f"GradientFlow measures the steps of one optimizer, not of {len(trainer.optimizers)}.")
        self._network(pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        network, step = self._network(pl_module), trainer.global_step + 1
        if step % self.every_n_steps == 0:
            moments = self._moments
            if moments is not None:
                moments.add(network)
            self._measurement = Measurement(network, moments=moments)
            self._moments = None
        if (step + 1) % self.every_n_steps == 0:
            self._moments = Moments()
            self._moments.add(network)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._measurement is None:
            return
        network = self._network(pl_module)
        stages = by_stage(network, self._measurement.finish(after_step=True))
        self._measurement = None
        for finding in findings_of(stages):
            if (finding.kind, finding.stage) not in self._warned:
                self._warned.add((finding.kind, finding.stage))
                rank_zero_warn(f"Step {trainer.global_step}: {finding.sentence}")
        scalars = {f"gradients/{flow.name}/{key}": value for flow in stages for key, value in flow.scalars().items()}
        for logger in trainer.loggers:
            # Lightning writes a step's own values under the number of steps before it.
            logger.log_metrics(scalars, step=trainer.global_step - 1)

    def _network(self, pl_module: LightningModule) -> nn.Module:
        network = pl_module if self.attribute is None else getattr(pl_module, self.attribute, None)
        if not isinstance(network, nn.Module):
            raise ValueError(f"GradientFlow: {type(pl_module).__name__} has no module `{self.attribute}`.")
        return bare(network)
