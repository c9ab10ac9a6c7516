"""Learning-rate schedules over a run of known length, stepped once per optimizer step."""

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

# Builds a scheduler for an optimizer, the run's optimizer steps, and the optimizer steps of one epoch.
SchedulerBuilder = Callable[[Optimizer, int, int], LRScheduler]

# Where a warm-up starts: torch's LinearLR refuses 0.
WARMUP_START = 1e-3


def constant(*, warmup: float = 0.0) -> SchedulerBuilder:
    """The full learning rate; `warmup` is the share of the run in which it rises linearly to it."""
    return lambda optimizer, steps, _: _warmed_up(optimizer, steps, warmup, lambda _: _unchanged(optimizer))


def cosine(*, warmup: float = 0.0, min_factor: float = 0.0) -> SchedulerBuilder:
    """Half a cosine down to `min_factor` of the learning rate (Loshchilov and Hutter, 2017, without restarts)."""

    def build(optimizer: Optimizer, steps: int, _: int) -> LRScheduler:
        lowest = min_factor * max(group["lr"] for group in optimizer.param_groups)
        return _warmed_up(optimizer, steps, warmup, lambda rest: CosineAnnealingLR(optimizer, rest, eta_min=lowest))

    return build


def step(*, step_size: int, gamma: float = 0.1, warmup: float = 0.0) -> SchedulerBuilder:
    """The learning rate times `gamma` every `step_size` epochs."""
    return lambda optimizer, steps, epoch: _warmed_up(
        optimizer, steps, warmup, lambda _: StepLR(optimizer, step_size * epoch, gamma=gamma)
    )


def onecycle(
    *, warmup: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4, anneal: str = "cos"
) -> SchedulerBuilder:
    """Up during the warm-up, then down to almost nothing (Smith and Topin, 2019); momentum stays as configured."""
    return lambda optimizer, steps, _: OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=warmup,
        anneal_strategy=anneal,  # type: ignore[arg-type]
        cycle_momentum=False,  # torch would silently override optimizer.momentum
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )


SCHEDULERS: dict[str, Callable[..., SchedulerBuilder]] = {
    "constant": constant,
    "cosine": cosine,
    "step": step,
    "onecycle": onecycle,
}


def _unchanged(optimizer: Optimizer) -> LRScheduler:
    return MultiplicativeLR(optimizer, lambda _: 1.0)


def _warmed_up(optimizer: Optimizer, steps: int, warmup: float, main: Callable[[int], LRScheduler]) -> LRScheduler:
    """A linear rise over the first `warmup` share of the steps, then the main schedule over the rest."""
    rising = round(warmup * steps)
    if not rising:
        return main(max(1, steps))
    rise = LinearLR(optimizer, start_factor=WARMUP_START, total_iters=rising)
    return SequentialLR(optimizer, [rise, main(max(1, steps - rising))], milestones=[rising])
