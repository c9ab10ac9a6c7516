"""What a phase freezes: a table with one row per stage in the log, numbers in every logger, a record for the facts."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from frostline import tables
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy, is_batch_norm
from frostline.freezing.selectors import bare, in_stage, stage_of

if TYPE_CHECKING:
    import lightning.pytorch as pl

log = logging.getLogger("frostline.freezing")


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage in one phase.

    parameters, tensors: all of the stage's; trainable_…: those that train.
    batch_norm: mode of its batch norms (`eval`, `train`, `mixed`; empty without any).
    lr: lowest and highest learning rate of its trainable parameters; None if there are none or no rates were given.
    """

    stage: str
    parameters: int
    tensors: int
    trainable_parameters: int
    trainable_tensors: int
    batch_norm: str
    lr: tuple[float, float] | None


def freezing_table(
    network: nn.Module,
    resolved: ResolvedPolicy,
    phase: ResolvedPhase,
    *,
    learning_rates: Mapping[str, float] | None = None,
) -> list[StageRow]:
    """One row per stage in execution order. Counts numbers and tensors, a shared tensor once.

    Args:
        learning_rates: parameter name -> learning rate.
    """
    network, rates = bare(network), learning_rates or {}
    rows = []
    for stage, modules in resolved.stages.items():
        inside = {name: entry for name, entry in network.named_parameters() if in_stage(name, modules)}
        training = {name: entry for name, entry in inside.items() if name in phase.trainable}
        given = [rates[name] for name in training if name in rates]
        # One without parameters lies in a stage, too, unless it is outside all of them.
        norms = {
            "eval" if name in phase.eval_modules else "train"
            for name, module in network.named_modules()
            if in_stage(name, modules) and is_batch_norm(module)
        }
        rows.append(
            StageRow(
                stage=stage,
                parameters=sum(parameter.numel() for parameter in inside.values()),
                tensors=len(inside),
                trainable_parameters=sum(parameter.numel() for parameter in training.values()),
                trainable_tensors=len(training),
                batch_norm=_one_of(norms),
                lr=(min(given), max(given)) if given else None,
            )
        )
    return rows


def total(rows: Iterable[StageRow]) -> StageRow:
    """The rows added up."""
    rows = list(rows)
    rates = [rate for row in rows if row.lr is not None for rate in row.lr]
    return StageRow(
        stage="total",
        parameters=sum(row.parameters for row in rows),
        tensors=sum(row.tensors for row in rows),
        trainable_parameters=sum(row.trainable_parameters for row in rows),
        trainable_tensors=sum(row.trainable_tensors for row in rows),
        batch_norm=_one_of({row.batch_norm for row in rows if row.batch_norm}),
        lr=(min(rates), max(rates)) if rates else None,
    )


def unfrozen_text(network: nn.Module, resolved: ResolvedPolicy, phase: ResolvedPhase) -> str:
    """What a phase trains, in a few words: "layer4 unfrozen". The head is named only where nothing else trains."""
    inside: dict[str, set[str]] = {stage: set() for stage in resolved.stages}
    for name, _ in bare(network).named_parameters():
        inside[stage_of(name, resolved.stages)].add(name)
    filled = [stage for stage, names in inside.items() if names]
    training = [stage for stage in filled if inside[stage] & phase.trainable]
    if all(inside[stage] <= phase.trainable for stage in filled):
        return "all unfrozen"
    partly = "partly " if any(not inside[stage] <= phase.trainable for stage in training) else ""
    named = training[:-1] if len(training) > 1 and training[-1] == filled[-1] else training
    gaps = filled.index(named[-1]) - filled.index(named[0]) + 1 != len(named)
    places = f"{len(named)} stages" if gaps else named[0] if len(named) == 1 else f"{named[0]} to {named[-1]}"
    return f"{places} {partly}unfrozen"


def as_text(rows: Iterable[StageRow]) -> str:
    """The table with its totals as plain text, for a log."""
    rows = list(rows)
    table = tables.new_table(
        "stage", "trains", "of parameters", "tensors", "batch norm", "learning rate", left=["batch norm"]
    )
    for row in [*rows, total(rows)]:
        low, high = row.lr or (None, None)
        table.add_row(
            row.stage,
            f"{row.trainable_parameters:,}" if row.trainable_parameters else "frozen",
            f"{row.parameters:,}",
            f"{row.trainable_tensors}/{row.tensors}",
            row.batch_norm or "-",
            "-" if low is None else f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}",
        )
    return tables.as_text(table)


def lr_scalars(resolved: ResolvedPolicy, learning_rates: Mapping[str, float]) -> dict[str, float]:
    """`freezing/lr/<stage>`: the highest learning rate in each stage; 0 in a frozen one."""
    highest = dict.fromkeys(resolved.stages, 0.0)
    for name, rate in learning_rates.items():
        stage = stage_of(name, resolved.stages)
        highest[stage] = max(highest[stage], rate)
    return {f"freezing/lr/{stage}": rate for stage, rate in highest.items()}


def phase_scalars(resolved: ResolvedPolicy, phase: ResolvedPhase, rows: Sequence[StageRow]) -> dict[str, float]:
    """Under stable names: the phase, the frost line (completely frozen stages, counted from the input), and how many
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


def log_once(trainer: "pl.Trainer", message: str) -> None:
    """Log a message on the first rank only."""
    if trainer.is_global_zero:
        log.info("%s", message)


def log_phase(
    trainer: "pl.Trainer",
    network: nn.Module,
    resolved: ResolvedPolicy,
    phase: ResolvedPhase,
    *,
    reason: str,
    learning_rates: Mapping[str, float],
) -> dict[str, Any]:
    """Report the begin of a phase to the log and to every logger.

    Returns:
        The same as a record of plain values.
    """
    rows = freezing_table(network, resolved, phase, learning_rates=learning_rates)
    scalars = {**phase_scalars(resolved, phase, rows), **lr_scalars(resolved, learning_rates)}
    step, count = trainer.global_step, f"{phase.index + 1} of {len(resolved.phases)}"
    log_once(trainer, f"Phase {count}, `{phase.name}`, at step {step}: {reason}.\n{as_text(rows)}")
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


def _one_of(modes: set[str]) -> str:
    return next(iter(modes)) if len(modes) == 1 else "mixed" if modes else ""
