"""Gradient clipping in mixed precision, for fused optimizers too."""

from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.optim import Optimizer


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
