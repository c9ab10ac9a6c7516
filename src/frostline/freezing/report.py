"""What a phase freezes, as a table: one row per stage."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy, is_batch_norm
from frostline.freezing.stages import bare, stage_of


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage in one phase.

    parameters, tensors: all of the stage's; trainable_…: those that train.
    batch_norm: what its batch norms do (`eval`, `train`, `mixed`; empty without any).
    lr: lowest and highest learning rate among what trains; None where nothing trains or no rates were given.
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
        learning_rates: parameter name -> learning rate, for instance from `learning_rates_of`.
    """
    network, rates = bare(network), learning_rates or {}
    homes = {name: stage_of(name, resolved.stages) for name, _ in network.named_parameters()}
    rows = []
    for stage in resolved.stages:
        inside = {name: parameter for name, parameter in network.named_parameters() if homes[name] == stage}
        training = {name: parameter for name, parameter in inside.items() if name in phase.trainable}
        given = [rates[name] for name in training if name in rates]
        rows.append(
            StageRow(
                stage=stage,
                parameters=sum(parameter.numel() for parameter in inside.values()),
                tensors=len(inside),
                trainable_parameters=sum(parameter.numel() for parameter in training.values()),
                trainable_tensors=len(training),
                batch_norm=_batch_norm_mode(network, resolved, phase, stage),
                lr=(min(given), max(given)) if given else None,
            )
        )
    return rows


def learning_rates_of(network: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """Parameter name -> the learning rate its group in an optimizer holds, for what the optimizer holds at all."""
    rate = {id(parameter): float(group["lr"]) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: rate[id(tensor)] for name, tensor in bare(network).named_parameters() if id(tensor) in rate}


def total(rows: Iterable[StageRow]) -> StageRow:
    """The rows summed up."""
    rows = list(rows)
    modes = {row.batch_norm for row in rows if row.batch_norm}
    rates = [rate for row in rows if row.lr is not None for rate in row.lr]
    return StageRow(
        stage="total",
        parameters=sum(row.parameters for row in rows),
        tensors=sum(row.tensors for row in rows),
        trainable_parameters=sum(row.trainable_parameters for row in rows),
        trainable_tensors=sum(row.trainable_tensors for row in rows),
        batch_norm=modes.pop() if len(modes) == 1 else "mixed" if modes else "",
        lr=(min(rates), max(rates)) if rates else None,
    )


def as_text(rows: Iterable[StageRow]) -> str:
    """The table with its totals as plain text, for a log."""
    rows = list(rows)
    lines = [("stage", "trains", "of parameters", "tensors", "batch norm", "learning rate")]
    for row in [*rows, total(rows)]:
        lines.append(
            (
                row.stage,
                f"{row.trainable_parameters:,}" if row.trainable_parameters else "frozen",
                f"{row.parameters:,}",
                f"{row.trainable_tensors}/{row.tensors}",
                row.batch_norm or "-",
                _rate(row.lr),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    right = (False, True, True, True, False, True)
    text = [
        "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in cells).rstrip()
        for cells in (list(zip(line, widths, right, strict=True)) for line in lines)
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def _rate(lr: tuple[float, float] | None) -> str:
    if lr is None:
        return "-"
    low, high = lr
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _batch_norm_mode(network: nn.Module, resolved: ResolvedPolicy, phase: ResolvedPhase, stage: str) -> str:
    modes = set()
    for name, module in network.named_modules():
        # One without parameters lies in a stage, too, unless it is outside all of them.
        inside = any(name == part or name.startswith(f"{part}.") for part in resolved.stages[stage])
        if inside and is_batch_norm(module):
            modes.add("eval" if name in phase.held else "train")
    return modes.pop() if len(modes) == 1 else "mixed" if modes else ""
