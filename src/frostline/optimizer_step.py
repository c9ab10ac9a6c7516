"""The gradients of an optimizer step: of one mean over all its images, and clipped.

Lightning divides the loss of each batch by the number of accumulated batches, and DDP averages over the processes: a
mean of means, which counts a batch of light classes for as much as one of heavy ones, and an epoch's last, shorter
window for less than its batches.
"""

from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer

from frostline.freezing.lightning_internals import accumulates

Weight = Tensor | int | None


class StepMean:
    """Scales each batch's loss, and at the step's last batch the gradients, so that both come from one mean.

    A weight is what a batch's mean was divided by (see `losses.total_weight`); None: the loss is a sum.
    """

    def __init__(self) -> None:
        self._weights: dict[int, Any] = {}
        self._losses: dict[int, Tensor] = {}

    def scaled(self, loss: Tensor, weight: Weight, *, trainer: lightning.Trainer, batch_idx: int) -> Tensor:
        """The loss to go backward from, a scalar; the one that was given where nothing is to be scaled."""
        accumulated, processes = trainer.accumulate_grad_batches, trainer.world_size
        if batch_idx % accumulated == 0:
            self._weights, self._losses = {}, {}
        if weight is None:
            self._losses[batch_idx] = loss.detach() * processes
            return loss * (accumulated * processes) if accumulated * processes > 1 else loss
        total: Any = weight
        if processes > 1 and isinstance(weight, Tensor):
            total = trainer.strategy.reduce(weight.detach().clone(), reduce_op="sum")
            loss = loss * (weight * processes / total)
        self._weights[batch_idx] = total
        self._losses[batch_idx] = loss.detach()
        first = next(iter(self._weights.values()))
        return loss if len(self._weights) == 1 or _same(total, first) else loss * (total / first)

    def logged(self, trainer: lightning.Trainer) -> Tensor:
        """The loss of the step so far; over all processes at a step that loggers take."""
        losses, weights = list(self._losses.values()), list(self._weights.values())
        value = losses[0]
        if len(losses) > 1:
            shares = [weight / sum(weights) for weight in weights] or [1.0] * len(losses)
            value = torch.stack([loss * share for loss, share in zip(losses, shares, strict=True)]).sum()
        return trainer.strategy.reduce(value.clone(), reduce_op="mean") if _is_logged(trainer) else value

    def correct_gradients(self, module: torch.nn.Module, trainer: lightning.Trainer) -> None:
        """After a step's last batch, scale a module's gradients, in place, to those of one mean."""
        factor = None if accumulates(trainer) else self.correction(trainer=trainer)
        if factor is not None:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def correction(self, *, trainer: lightning.Trainer) -> Any:
        """The factor of the step's gradients after its last batch; None where it is 1."""
        weights, accumulated = list(self._weights.values()), trainer.accumulate_grad_batches
        if not weights or accumulated == 1:
            return None
        if len(weights) == accumulated and all(_same(weight, weights[0]) for weight in weights):
            return None
        return accumulated * weights[0] / sum(weights)


def _same(one: Any, other: Any) -> bool:
    """Whether two weights are known to be equal without a wait for the device."""
    return isinstance(one, int) and isinstance(other, int) and one == other


def _is_logged(trainer: Any) -> bool:
    """Whether several processes have to agree on a value, since the loggers take it at this step."""
    every = trainer.log_every_n_steps
    due = bool(trainer.loggers and every) and (trainer.global_step + 1) % every == 0
    return due and trainer.world_size > 1 and not accumulates(trainer)


def clip_in_mixed_precision(
    precision: MixedPrecision, optimizer: Optimizer, value: int | float, algorithm: str | None
) -> None:
    """Clip the gradients of an optimizer, as Lightning does.

    Lightning refuses fused optimizers here, as they unscale gradients in their step. In bf16-mixed there is no scaler.

    Args:
        value: the largest norm, or the largest absolute value.
        algorithm: `norm` or `value`; None is `norm`.

    Raises:
        ValueError: a fused optimizer in 16-mixed, whose gradients are still scaled.
    """
    if precision.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ValueError(
            "gradient_clip_val: in 16-mixed a fused optimizer cannot be clipped. Use fused=False or "
            "precision='bf16-mixed'"
        )
    Precision.clip_gradients(precision, optimizer, value, GradClipAlgorithmType(algorithm or "norm"))
