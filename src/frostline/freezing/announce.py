"""What a run says about its phases: a table in the log, numbers in every logger, a record for its facts."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import nn

from frostline.freezing.report import StageRow, as_text, freezing_table, total
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.freezing.stages import stage_of

log = logging.getLogger("frostline.freezing")


def say(trainer: "pl.Trainer", message: str) -> None:
    """Into the log, once for all ranks."""
    if trainer.is_global_zero:
        log.info("%s", message)


def rates(
    network: nn.Module, phase: ResolvedPhase, groups: Sequence[Mapping[str, Any]], factors: Sequence[float]
) -> dict[str, float]:
    """The learning rate at which each trainable parameter trains now: its group's times the group's factor."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {}
    for group, factor in zip(groups, factors, strict=True):
        for parameter in group["params"]:
            name = names.get(id(parameter))
            if name in phase.trainable:
                found[name] = float(group["lr"]) * factor
    return found


def rate_scalars(resolved: ResolvedPolicy, learning_rates: Mapping[str, float]) -> dict[str, float]:
    """`freezing/lr/<stage>`: the highest learning rate in each stage; 0 where it is frozen."""
    highest = dict.fromkeys(resolved.stages, 0.0)
    for name, rate in learning_rates.items():
        stage = stage_of(name, resolved.stages)
        highest[stage] = max(highest[stage], rate)
    return {f"freezing/lr/{stage}": rate for stage, rate in highest.items()}


def phase_scalars(resolved: ResolvedPolicy, phase: ResolvedPhase, rows: Sequence[StageRow]) -> dict[str, float]:
    """Under stable names: which phase, where the frost line lies (stages frozen whole, from the input), and how many
    numbers train and are frozen, in all and per stage."""
    whole = total(rows)
    scalars: dict[str, float] = {
        "freezing/phase": phase.index,
        "freezing/frost_line": resolved.frost_line(phase),
        "freezing/trainable_parameters": whole.trainable_parameters,
        "freezing/frozen_parameters": whole.parameters - whole.trainable_parameters,
    }
    for row in rows:
        scalars[f"freezing/trainable/{row.stage}"] = row.trainable_parameters
        scalars[f"freezing/frozen/{row.stage}"] = row.parameters - row.trainable_parameters
    return scalars


def announce(
    trainer: "pl.Trainer",
    network: nn.Module,
    resolved: ResolvedPolicy,
    phase: ResolvedPhase,
    *,
    reason: str,
    learning_rates: Mapping[str, float],
) -> dict[str, Any]:
    """Say that a phase begins, to the log and to every logger.

    Returns:
        The same as a record of plain values.
    """
    rows = freezing_table(network, resolved, phase, learning_rates=learning_rates)
    scalars = {**phase_scalars(resolved, phase, rows), **rate_scalars(resolved, learning_rates)}
    step, count = trainer.global_step, f"{phase.index + 1} of {len(resolved.phases)}"
    say(trainer, f"Phase {count}, `{phase.name}`, at step {step}: {reason}.\n{as_text(rows)}")
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=step)
    numbers = {key.removeprefix("freezing/"): value for key, value in scalars.items() if key != "freezing/phase"}
    return {
        "phase": phase.name,
        "index": phase.index,
        "step": step,
        "epoch": trainer.current_epoch,
        "reason": reason,
        **numbers,
    }
