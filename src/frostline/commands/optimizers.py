"""Builders of optimizers and learning-rate schedules, frostline's and the user's own."""

import inspect
from collections.abc import Mapping
from functools import partial

import torch
from torch.optim.lr_scheduler import LRScheduler

from frostline.config.optimizer import Optimizer, OptimizerSection, OwnOptimizer, OwnScheduler, Scheduler
from frostline.optim import OptimizerBuilder
from frostline.schedulers import SCHEDULERS, SchedulerBuilder
from frostline.signatures import check_signature, find_class

# Keys of an optimizer that its constructor does not take.
NOT_ARGUMENTS = {"name", "target", *OptimizerSection.model_fields} - {"lr"}
LENGTHS = ("total_steps", "steps_per_epoch")
TORCH_OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    name.lower(): optimizer
    for name, optimizer in vars(torch.optim).items()
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
}


def optimizer_builder(optimizer: Optimizer, *, fused: bool = False) -> OptimizerBuilder:
    """Builds a torch optimizer by name, or one of the user's own, from parameter groups.

    Args:
        fused: take torch's fused form where it has one.

    Raises:
        ValueError: a class of the user's own that does not exist, or does not take these options.
    """
    arguments = {key: value for key, value in optimizer if key not in NOT_ARGUMENTS}
    if isinstance(optimizer, OwnOptimizer):
        own = find_class(optimizer.target, subclass_of=torch.optim.Optimizer, what="optimizer")
        decay = optimizer.weight_decay
        if decay is None or (decay == 0 and "weight_decay" not in inspect.signature(own).parameters):
            arguments.pop("weight_decay")  # None: the class's own default
        check_signature(own, arguments, what="optimizer", given=("params",))
        return partial(own, **arguments)
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    found = TORCH_OPTIMIZERS[optimizer.name]
    if fused and "fused" in inspect.signature(found).parameters:
        arguments["fused"] = True
    return partial(found, **arguments)


def scheduler_builder(scheduler: Scheduler) -> SchedulerBuilder:
    """Builds the schedule for an optimizer and the lengths of a run and an epoch.

    Raises:
        ValueError: a class of the user's own that does not exist, or does not take these options.
    """
    if not isinstance(scheduler, OwnScheduler):
        return SCHEDULERS[scheduler.name](**{key: value for key, value in scheduler if key != "name"})
    own, arguments = find_class(scheduler.target, subclass_of=LRScheduler, what="scheduler"), scheduler.arguments()
    lengths = [name for name in LENGTHS if name in inspect.signature(own).parameters and name not in arguments]
    check_signature(own, arguments, what="scheduler", given=("optimizer", *lengths))

    def build(optimizer: torch.optim.Optimizer, steps: int, epoch: int) -> LRScheduler:
        run = dict(zip(LENGTHS, (steps, epoch), strict=True))
        built: LRScheduler = own(optimizer, **arguments, **{name: run[name] for name in lengths})
        return built

    return build
