"""How loaders fetch batches: processes, time limits, pinned memory; and the trainer options that they rule out."""

from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How batches are fetched.

    Attributes:
        workers: processes per rank and loader; None chooses, see `auto_workers`.
        timeout: seconds to wait for a batch before the run fails, 0 for ever. A read from an unreachable network
            drive would otherwise hang the run silently.
    """

    workers: int | None = None
    timeout: float = 120.0

    def options(self, *, workers: int, on_gpu: bool, seed: int) -> dict[str, Any]:
        """Arguments of a `WatchedLoader` with so many workers."""
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "timeout": self.timeout if workers else 0,
            "patience": 0 if workers else self.timeout,
            # Only for a GPU that is used: pinning takes a CUDA context, hundreds of megabytes, where there is one.
            "pin_memory": on_gpu,
            # A loader draws a seed for its workers at each new iterator; by default from the global generator, which
            # would then depend on how often a run was interrupted.
            "generator": torch.Generator().manual_seed(seed),
        }


def auto_workers(*, cores: int, images: int, on_gpu: bool) -> int:
    """Loader processes for a rank with so many cores.

    None for fewer than 1,000 images or on two cores: forks and pipes then cost more than they save. Beside a GPU all
    cores but one, at most 8. Where the cores compute as well, one for each six of them: at 224 px in bf16 a ResNet-18's
    forward pass takes about five times the processor time of decoding its image, a training step fifteen times.
    """
    if cores <= 2 or images < 1000:
        return 0
    return min(8, cores - 1) if on_gpu else min(8, max(1, cores // 6))


def check_trainer(trainer: lightning.Trainer) -> None:
    """Raises ValueError for trainer options under which `global_step` does not give the position in the run."""
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "Build the Trainer with use_distributed_sampler=False: the datamodule divides the samples among ranks "
            "itself, and Lightning's sampler would divide them again and pad the evaluation."
        )
    if getattr(trainer, "overfit_batches", 0):
        raise ValueError("overfit_batches is not supported; use limit_train_batches and a smaller source instead.")
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ValueError("GradientAccumulationScheduler is not supported: steps per epoch must not change in a run.")
    if not trainer.lightning_module.automatic_optimization:
        raise ValueError("Manual optimization is not supported: the position in the run is counted in its steps.")
