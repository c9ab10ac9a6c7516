"""A freezing policy before it runs: which stage trains when, and what its phases save."""

from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frostline.autograd.observe import observe
from frostline.figures import ICE, ICE_LINE, WARM, WARM_LINE, save_figure, styled
from frostline.freezing.apply import apply_phase
from frostline.freezing.phase_clock import Span, schedule_warnings, timeline
from frostline.freezing.report import StageRow, freezing_table, total
from frostline.freezing.resolved import ResolvedPolicy
from frostline.modes import restored
from frostline.tables import as_text, new_table


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one image's backward pass costs.

    flops: as torch counts them (matrix products, convolutions). kept_bytes: activations that the forward keeps for it.
    """

    flops: int
    kept_bytes: int


@dataclass(frozen=True, kw_only=True)
class PlannedPhase:
    """One phase of a run to come: its optimizer steps, its freezing table and its cost."""

    span: Span
    rows: tuple[StageRow, ...]
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All phases, beside full fine-tuning of the same network."""

    phases: tuple[PlannedPhase, ...]
    steps_per_epoch: int
    full: Cost


def plan(
    network: nn.Module,
    resolved: ResolvedPolicy,
    *,
    images: Tensor,
    lr: float,
    steps_per_epoch: int,
    total_steps: int,
) -> Plan:
    """Plan a policy on a network for a run of a given length; leaves the network in the first phase.

    Args:
        images: (batch, 3, height, width), as the network takes them; two or more, for batch norm.
        lr: the optimizer's learning rate, before the phases' factors.

    Raises:
        ValueError: a phase would never begin.
    """
    length = {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps}
    if impossible := schedule_warnings(resolved.policy, **length):
        raise ValueError("\n".join(impossible))
    spans = timeline(resolved.policy, **length)
    phases = []
    for span, phase in zip(spans, resolved.phases, strict=True):
        apply_phase(network, phase)
        cost = backward_cost(network, images)
        rates = {name: lr * factor for name, factor in phase.lr.items()}
        rows = tuple(freezing_table(network, resolved, phase, learning_rates=rates))
        phases.append(PlannedPhase(span=span, rows=rows, cost=cost))
    network.requires_grad_(True).train()
    full = backward_cost(network, images)
    apply_phase(network, resolved.phases[0])
    return Plan(phases=tuple(phases), steps_per_epoch=steps_per_epoch, full=full)


def backward_cost(network: nn.Module, images: Tensor) -> Cost:
    """The cost per image, with the current flags and modes.

    The network's parameters, gradients, statistics and the random state are left as they were.
    """
    counter = FlopCounterMode(display=False)
    with restored(network), torch.random.fork_rng():
        observation = observe(network, images, torch.sum, count_flops=False)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        with counter:
            torch.autograd.grad(observation.loss, parameters, allow_unused=True)
    count = len(images)
    return Cost(flops=counter.get_total_flops() // count, kept_bytes=observation.graph.kept_bytes // count)


def plan_table(planned: Plan) -> str:
    """A row a phase: when, what trains, at which rates, and what it saves against full fine-tuning."""
    columns = ("phase", "steps", "epochs", "trains", "parameters", "learning rate", "backward saved", "memory saved")
    table = new_table(*columns, left=("trains",))
    for phase in planned.phases:
        whole = total(phase.rows)
        training = [row.stage for row in phase.rows if row.trainable_tensors]
        low, high = whole.lr or (0.0, 0.0)
        span, steps_per_epoch = phase.span, planned.steps_per_epoch
        flops = phase.cost.flops / planned.full.flops
        kept = phase.cost.kept_bytes / planned.full.kept_bytes
        table.add_row(
            span.phase.name,
            f"{'≤ ' if span.latest else ''}{span.start}-{span.end - 1}",
            f"{span.start / steps_per_epoch:.3g}-{span.end / steps_per_epoch:.3g}",
            " ".join(training),
            f"{whole.trainable_parameters:,}",
            f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}",
            f"{100 * (1 - flops):.1f} %",
            f"{100 * (1 - kept):.1f} %",
        )
    return as_text(table)


@styled
def draw_plan(planned: Plan, path: Path, *, title: str) -> None:
    """The phases as a picture: time to the right, stages upwards, ice where frozen, warm where trained."""
    stages = [row.stage for row in planned.phases[0].rows]
    figure = Figure(figsize=(9, 0.55 * len(stages) + 1.6), layout="constrained")
    axes = figure.subplots()
    for phase in planned.phases:
        left, width = phase.span.start, phase.span.end - phase.span.start
        for height, row in enumerate(phase.rows):
            trains, whole = row.trainable_tensors > 0, row.trainable_tensors == row.tensors
            axes.barh(
                height, width, left=left, height=0.86, linewidth=1, color=WARM if trains and whole else ICE,
                edgecolor=WARM_LINE if trains else ICE_LINE, linestyle="-" if trains else "--",
            )  # fmt: skip
            axes.text(left + width / 2, height, _label(row), ha="center", va="center", fontsize=8)
        axes.text(left + width / 2, len(stages) - 0.35, phase.span.phase.name, ha="center", va="bottom", fontsize=9)
    axes.set_yticks(range(len(stages)), stages)
    axes.set_ylim(-0.6, len(stages) + 0.2)
    axes.set_xlim(0, planned.phases[-1].span.end)
    axes.set_xlabel(f"optimizer step ({planned.steps_per_epoch} per epoch)")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    save_figure(figure, path, formats=(".svg", ".png", ".pdf"))


def _label(row: StageRow) -> str:
    if not row.trainable_tensors:
        return "frozen"
    low, high = row.lr or (0.0, 0.0)
    rate = f"{low:.2g}" if low == high else f"{low:.2g}–{high:.2g}"
    part = "" if row.trainable_tensors == row.tensors else f", {row.trainable_tensors} of {row.tensors} tensors"
    return f"lr {rate}{part}"
