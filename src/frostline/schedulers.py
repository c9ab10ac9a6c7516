"""Learning-rate schedules over a run of known length, stepped once per optimizer step.

Each is a pure function from the step to a factor of the full learning rate, so that a run can be resumed at any step.
torch's own parts do not add up: a constant rate after `SequentialLR`'s warm-up stays at the last step but one of the
rise, and `OneCycleLR` divides by zero where the rise takes one step and trains a run of one step at rate 0.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

# Builds a scheduler for an optimizer, the run's optimizer steps, and the optimizer steps of one epoch.
SchedulerBuilder = Callable[[Optimizer, int, int], LRScheduler]

# Where a warm-up starts: a first step at rate 0 would be a step lost.
WARMUP_START = 1e-3


def constant(*, warmup: float = 0.0) -> SchedulerBuilder:
    """The full learning rate; `warmup` is the share of the run in which it rises linearly to it."""
    _check("warmup", warmup, 0 <= warmup < 1)
    return lambda optimizer, steps, _: LambdaLR(optimizer, lambda now: _rise(now, round(warmup * steps)))


def cosine(*, warmup: float = 0.0, min_factor: float = 0.0) -> SchedulerBuilder:
    """Half a cosine down to `min_factor` of the learning rate (Loshchilov and Hutter, 2017, without restarts)."""
    _check("warmup", warmup, 0 <= warmup < 1)
    _check("min_factor", min_factor, 0 <= min_factor < 1)

    def build(optimizer: Optimizer, steps: int, _: int) -> LRScheduler:
        rising = round(warmup * steps)

        def factor(now: int) -> float:
            if now < rising:
                return _rise(now, rising)
            return _cosine(1.0, min_factor, (now - rising) / max(1, steps - rising))

        return LambdaLR(optimizer, factor)

    return build


def step(*, step_size: int | None = None, gamma: float = 0.1, warmup: float = 0.0) -> SchedulerBuilder:
    """The learning rate times `gamma` every `step_size` epochs, counted from the run's start.

    Without a `step_size`, after each third of the run, as He et al. (2015) trained residual networks.
    """
    _check("warmup", warmup, 0 <= warmup < 1)
    _check("step_size", step_size or 1, step_size is None or step_size >= 1)
    _check("gamma", gamma, 0 < gamma <= 1)

    def build(optimizer: Optimizer, steps: int, epoch: int) -> LRScheduler:
        size = -(-steps // 3) if step_size is None else step_size * epoch
        return LambdaLR(optimizer, lambda now: _rise(now, round(warmup * steps)) * gamma ** (now // size))

    return build


def onecycle(
    *, warmup: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4, anneal: str = "cos"
) -> SchedulerBuilder:
    """Up during the warm-up, then down to almost nothing (Smith and Topin, 2019); momentum stays as configured.

    The rates are torch's OneCycleLR's. Where the warm-up is shorter than two steps, the full rate comes first.
    """
    _check("warmup", warmup, 0 <= warmup < 1)
    _check("div_factor", div_factor, 1 <= div_factor < math.inf)
    _check("final_div_factor", final_div_factor, 1 <= final_div_factor < math.inf)
    between = {"cos": _cosine, "linear": _linear}[anneal]

    def build(optimizer: Optimizer, steps: int, _: int) -> LRScheduler:
        first, last = 1 / div_factor, 1 / (div_factor * final_div_factor)
        top, end = max(0.0, warmup * steps - 1), steps - 1

        def factor(now: int) -> float:
            if now < top:
                return between(first, 1.0, now / top)
            return between(1.0, last, (now - top) / (end - top)) if end > top else 1.0

        return LambdaLR(optimizer, factor)

    return build


SCHEDULERS: dict[str, Callable[..., SchedulerBuilder]] = {
    "constant": constant,
    "cosine": cosine,
    "step": step,
    "onecycle": onecycle,
}


def _check(name: str, value: float, holds: bool) -> None:
    """NaN and infinity are out of every range."""
    if not holds:
        raise ValueError(f"{name}={value} is out of range; see docs/configuration/scheduler.md.")


def _rise(now: int, rising: int) -> float:
    return _linear(WARMUP_START, 1.0, now / rising) if rising else 1.0


def _linear(start: float, end: float, share: float) -> float:
    return start + (end - start) * min(1.0, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
