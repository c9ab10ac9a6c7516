"""A freezing policy before it runs: which stage trains when, and what its phases save."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, product
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frostline.autograd.observe import observe
from frostline.figures import ICE, ICE_INK, ICE_LINE, INK, MUTED, WARM, WARM_INK, WARM_LINE, save_figure, styled
from frostline.freezing.apply import apply_phase
from frostline.freezing.phase_clock import Span, timeline
from frostline.freezing.report import StageRow, freezing_table, total
from frostline.freezing.resolved import ResolvedPolicy
from frostline.modes import restored
from frostline.tables import as_text, new_table
from frostline.tracking.planned_rates import PlannedRates


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
    rates: PlannedRates
    steps_per_epoch: int
    full: Cost


def plan(
    network: nn.Module,
    resolved: ResolvedPolicy,
    *,
    images: Tensor,
    rates: Callable[[Sequence[Span]], PlannedRates],
    steps_per_epoch: int,
    total_steps: int,
) -> Plan:
    """Plan a policy on a network for a run of a given length; leaves the network in the first phase.

    Args:
        images: (batch, 3, height, width), as the network takes them; two or more, for batch norm.
        rates: of the run, from its phases; see `planned_rates`.
    """
    spans = [
        replace(span, end=min(span.end, total_steps))
        for span in timeline(resolved.policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
        if span.start < total_steps
    ]
    planned, phases = rates(spans), []
    for span, phase in zip(spans, resolved.phases, strict=False):  # without phases that may never begin
        apply_phase(network, phase)
        cost = backward_cost(network, images)
        rows = tuple(freezing_table(network, resolved, phase))
        phases.append(PlannedPhase(span=span, rows=rows, cost=cost))
    network.requires_grad_(True).train()
    full = backward_cost(network, images)
    apply_phase(network, resolved.phases[0])
    return Plan(phases=tuple(phases), rates=planned, steps_per_epoch=steps_per_epoch, full=full)


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
    """A row a phase: when, how much trains, and what it saves against full fine-tuning."""
    table = new_table("phase", "steps", "epochs", "parameters", "backward saved", "memory saved")
    for phase in planned.phases:
        span, steps_per_epoch = phase.span, planned.steps_per_epoch
        flops = phase.cost.flops / planned.full.flops
        kept = phase.cost.kept_bytes / planned.full.kept_bytes
        table.add_row(
            span.phase.name,
            f"{'≤ ' if span.latest else ''}{span.start}-{span.end - 1}",
            f"{span.start / steps_per_epoch:.3g}-{span.end / steps_per_epoch:.3g}",
            f"{total(phase.rows).trainable_parameters:,}",
            f"{100 * (1 - flops):.1f} %",
            f"{100 * (1 - kept):.1f} %",
        )
    return as_text(table)


def rates_table(planned: Plan) -> str:
    """The learning rates of each phase: its parameter groups, those with equal rates in one row."""
    table = new_table("phase", "trains", "first step", "highest", "last step", left=("trains",))
    for phase in planned.phases:
        courses = planned.rates.courses(phase.span.start, phase.span.end)
        for place, (course, groups) in enumerate(courses.items()):
            rates = (f"{rate:.3g}" for rate in (course[0], max(course), course[-1]))
            table.add_row("" if place else phase.span.phase.name, " ".join(groups), *rates)
    return as_text(table, width=80)


@styled
def draw_plan(planned: Plan, path: Path, *, title: str) -> None:
    """The phases as a picture, time to the right: the stages, ice where frozen and warm where trained, and below them
    the learning rate of each parameter group."""
    stages = [row.stage for row in planned.phases[0].rows]
    heights = (0.45 * len(stages) + 0.4, 2.4)
    figure = Figure(figsize=(9, sum(heights) + 1.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    for phase in planned.phases:
        left, width = phase.span.start, phase.span.end - phase.span.start
        for height, row in enumerate(phase.rows):
            trains, whole = row.trainable_tensors > 0, row.trainable_tensors == row.tensors
            above.barh(
                height, width, left=left, height=0.86, linewidth=1, color=WARM if trains and whole else ICE,
                edgecolor=WARM_LINE if trains else ICE_LINE, linestyle="-" if trains else "--",
            )  # fmt: skip
            above.text(left + width / 2, height, _label(row), ha="center", va="center", fontsize=8)
        above.text(left + width / 2, len(stages) - 0.35, phase.span.phase.name, ha="center", va="bottom", fontsize=9)
    above.set_yticks(range(len(stages)), stages)
    above.set_ylim(-0.6, len(stages) + 0.2)
    above.set_xlim(0, planned.phases[-1].span.end)
    above.set_title(title, fontsize=10)
    above.spines[["top", "right", "left"]].set_visible(False)
    _draw_rates(below, planned.rates)
    below.set_xlabel(f"optimizer step ({planned.steps_per_epoch} per epoch)")
    save_figure(figure, path, formats=(".svg", ".png", ".pdf"))


def _draw_rates(axes: Axes, rates: PlannedRates) -> None:
    """A line for each course of rates, from the step in which it begins, in steps as they are taken."""
    courses = rates.courses()
    looks = cycle(product(("-", "--", ":"), (WARM_LINE, ICE_INK, MUTED, WARM_INK, ICE_LINE, INK)))
    for (course, groups), (line, colour) in zip(courses.items(), looks, strict=False):
        shown = [rate or math.nan for rate in (*course, course[-1])]
        axes.step(range(len(shown)), shown, where="post", color=colour, linestyle=line, label=" ".join(groups))
    highest = [max(course) for course in courses]
    if max(highest) > 20 * min(highest):
        axes.set_yscale("log")
        axes.set_ylim(min(highest) / 100, 2 * max(highest))
    else:
        axes.set_ylim(0, 1.08 * max(highest))
    axes.set_ylabel("learning rate")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _label(row: StageRow) -> str:
    if not row.trainable_tensors:
        return "frozen"
    return "trains" + ("" if row.trainable_tensors == row.tensors else f" {row.trainable_tensors} of {row.tensors}")
