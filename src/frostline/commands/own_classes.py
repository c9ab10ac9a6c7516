"""Classes of the user's own that a config names by `_target_`: found, and checked against their signatures."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric

from frostline.commands.optimizers import optimizer_builder, scheduler_builder
from frostline.config.optimizer import OwnOptimizer, OwnScheduler
from frostline.config.section import OwnClass, Section
from frostline.data.build import source_class
from frostline.signatures import check_signature, construct, find_class

# What the classes of a group derive from.
KINDS: Mapping[str, type] = {
    "model": nn.Module,
    "head": nn.Module,
    "loss": nn.Module,
    "augment": object,
    "metrics": Metric,
    "callbacks": Callback,
    "logger": Logger,
    "trainer": Profiler,
    "device": Strategy,
}
# Arguments that frostline gives, and those that it gives where the class takes them and the config does not.
GIVEN: Mapping[str, tuple[str, ...]] = {"head": ("features", "classes"), "data": ("image_size",)}
OFFERED: Mapping[str, tuple[str, ...]] = {
    "logger": ("save_dir",),
    "metrics": ("num_classes",),
    "trainer": ("dirpath", "filename"),
    "device": ("timeout", "process_group_backend"),
}


def own_classes(section: Section, key: str = "") -> Iterator[tuple[str, OwnClass]]:
    """The classes of the user's own in a config or in one of its sections, each with its key: `head`, `logger.mine`."""
    for name, value in section:
        place = f"{key}.{name}" if key else name
        if isinstance(value, OwnClass):
            yield place, value
        elif isinstance(value, Section):
            yield from own_classes(value, place)


def build_own(key: str, own: OwnClass, **defaults: Any) -> Any:
    """An object of the class.

    Args:
        defaults: arguments that the class gets where it takes them and the config does not say another value.

    Raises:
        ValueError: there is no such class, it is of another kind, or it does not take these keys.
    """
    found = find_class(own.target, subclass_of=KINDS[key.partition(".")[0]], what=key)
    taken = {name: value for name, value in defaults.items() if name in inspect.signature(found).parameters}
    return construct(found, {**taken, **own.arguments()}, what=key)


def own_class_problems(config: Section) -> list[str]:
    """What is wrong with the classes of the user's own in a config; none of them is called."""
    problems = []
    for key, own in own_classes(config):
        try:
            _check(key, own)
        except ValueError as error:
            problems += str(error).splitlines()
    return problems


def _check(key: str, own: OwnClass) -> None:
    if isinstance(own, OwnOptimizer):
        optimizer_builder(own)
    elif isinstance(own, OwnScheduler):
        scheduler_builder(own)
    else:
        group, arguments = key.partition(".")[0], own.arguments()
        if group == "data":
            found = source_class({"_target_": own.target})
        else:
            found = find_class(own.target, subclass_of=KINDS[group], what=key)
        offered = (name for name in OFFERED.get(group, ()) if name not in arguments)
        check_signature(found, arguments, what=key, given=(*GIVEN.get(group, ()), *offered))
        if issubclass(found, DDPStrategy):  # which hands what it does not know to torch, in the middle of a start
            known = {**inspect.signature(DDPStrategy).parameters, **inspect.signature(found).parameters}
            others = {name: value for name, value in arguments.items() if name not in known}
            check_signature(DistributedDataParallel, others, what=key, given=("module",))
