"""The cost of torch.compile in a run, and the number of steps after which it pays back."""

import copy
import logging
import time
from statistics import median
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.seed import isolate_rng

log = logging.getLogger("frostline.compile")

EAGER_STEPS = 3  # of which the first warms up
STEADY_AFTER = 3  # compiled steps, the first of which compiles; shapes may make another one do so
MEASURED = 5


class CompileCost(lightning.Callback):
    """Compares compiled steps with the same step of an eager copy of the network, and logs the break-even.

    A step is a forward and a backward pass. The copy runs a few times on the run's first batch, outside the run: no
    gradient, statistic or random number of the run changes. In a phase whose features are read back there is next to
    nothing to compile, and nothing is compared.
    """

    def __init__(self) -> None:
        self._eager: float | None = None
        self._steps: list[float] = []
        self._began = 0.0
        self._done = False

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._done:
            return
        if self._eager is None:
            if not (isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[0], torch.Tensor)):
                self._done = True
                return
            self._eager = _eager_seconds(trainer, pl_module, batch[0])
        self._began = _now(trainer)

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._done or self._eager is None:
            return
        self._steps.append(_now(trainer) - self._began)
        if len(self._steps) == STEADY_AFTER + MEASURED:
            self._done = True
            compiled = median(self._steps[STEADY_AFTER:])
            cost = sum(self._steps[:STEADY_AFTER]) - STEADY_AFTER * compiled
            steps = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
            if trainer.is_global_zero:
                log.info("%s", cost_text(cost=cost, eager=self._eager, compiled=compiled, steps=steps))


def _now(trainer: lightning.Trainer) -> float:
    """Seconds of the clock after the device has finished; for the first few steps only."""
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)
    return time.perf_counter()


def _eager_seconds(trainer: lightning.Trainer, classifier: Any, images: torch.Tensor) -> float:
    """Seconds of a forward and backward pass of an eager copy of the network."""
    # A copy leaves behind what compile() put on the original.
    copied = copy.deepcopy(classifier.network)
    seconds = []
    with isolate_rng():
        for _ in range(EAGER_STEPS):
            began = _now(trainer)
            with trainer.precision_plugin.train_step_context():
                loss = copied(classifier.normalised(images)).float().square().mean()
            loss.backward()
            seconds.append(_now(trainer) - began)
    return min(seconds[1:])


def cost_text(*, cost: float, eager: float, compiled: float, steps: int) -> str:
    """One sentence: seconds spent compiling, seconds per step with and without, and what that means to the run."""
    spent = f"torch.compile took {cost:.0f} s; a step takes {1000 * compiled:.0f} ms instead of {1000 * eager:.0f} ms"
    if compiled >= eager:
        return f"{spent}, so it never pays back here: trainer.compile=false is faster."
    needed = cost / (eager - compiled)
    outcome = "it pays back" if needed < steps else "it does not pay back: trainer.compile=false is faster"
    return f"{spent}. Break-even after {needed:,.0f} steps; this run has {steps:,}, so {outcome}."
