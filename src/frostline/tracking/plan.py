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
from frostline.tables import as_text, new_table


@dataclass(frozen=True, kw_only=True)
class PlannedPhase:
    """One phase of a run to come.

    span: its optimizer steps, the first counted from 0.
    rows: the freezing table.
    backward_flops: of one image's backward pass, as torch counts them (matrix products, convolutions).
    kept_bytes: activations that one image's forward keeps for backward.
    """

    span: Span
    rows: tuple[StageRow, ...]
    backward_flops: int
    kept_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All phases, beside full fine-tuning of the same network."""

    phases: tuple[PlannedPhase, ...]
    steps_per_epoch: int
    full_backward_flops: int
    full_kept_bytes: int


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
    if impossible := schedule_warnings(resolved.policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps):
        raise ValueError("\n".join(impossible))
    spans = timeline(resolved.policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    phases = []
    for span, phase in zip(spans, resolved.phases, strict=True):
        apply_phase(network, phase)
        flops, kept = backward_cost(network, images)
        rates = {name: lr * factor for name, factor in phase.lr.items()}
        rows = tuple(freezing_table(network, resolved, phase, learning_rates=rates))
        phases.append(PlannedPhase(span=span, rows=rows, backward_flops=flops, kept_bytes=kept))
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    network.train()
    full_flops, full_kept = backward_cost(network, images)
    apply_phase(network, resolved.phases[0])
    return Plan(
        phases=tuple(phases),
        steps_per_epoch=steps_per_epoch,
        full_backward_flops=full_flops,
        full_kept_bytes=full_kept,
    )


def backward_cost(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """FLOPs of the backward pass and bytes of activations kept for it, per image, with the current flags and modes.

    The network's parameters, gradients, statistics and random state are left as they were.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    random_state = torch.get_rng_state()
    observation = observe(network, images, torch.sum, count_flops=False)
    counter = FlopCounterMode(display=False)
    with counter:
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        torch.autograd.grad(observation.loss, parameters, allow_unused=True)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    torch.set_rng_state(random_state)
    kept = sum(node.kept_bytes for node in observation.graph.nodes)
    return counter.get_total_flops() // len(images), kept // len(images)


def plan_table(planned: Plan) -> str:
    """A row a phase: when, what trains, at which rates, and what it saves against full fine-tuning."""
    columns = ("phase", "steps", "epochs", "trains", "parameters", "learning rate", "backward saved", "memory saved")
    table = new_table(*columns, left=("trains",))
    for phase in planned.phases:
        whole = total(phase.rows)
        training = [row.stage for row in phase.rows if row.trainable_tensors]
        low, high = whole.lr or (0.0, 0.0)
        span, steps_per_epoch = phase.span, planned.steps_per_epoch
        table.add_row(
            span.phase.name,
            f"{'≤ ' if span.latest else ''}{span.start}-{span.end - 1}",
            f"{span.start / steps_per_epoch:.3g}-{span.end / steps_per_epoch:.3g}",
            " ".join(training),
            f"{whole.trainable_parameters:,}",
            f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}",
            _saved(phase.backward_flops, planned.full_backward_flops),
            _saved(phase.kept_bytes, planned.full_kept_bytes),
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
            frozen = row.trainable_tensors == 0
            share = row.trainable_tensors / row.tensors if row.tensors else 0.0
            axes.barh(
                height, width, left=left, height=0.86, linewidth=1,
                color=ICE if frozen or share < 1 else WARM, edgecolor=ICE_LINE if frozen else WARM_LINE,
                linestyle="--" if frozen else "-",
            )  # fmt: skip
            axes.text(left + width / 2, height, _label(row), ha="center", va="center", fontsize=8)
        axes.text(left + width / 2, len(stages) - 0.35, phase.span.phase.name, ha="center", va="bottom", fontsize=9)
    axes.set_yticks(range(len(stages)), stages)
    axes.set_ylim(-0.6, len(stages) + 0.2)
    axes.set_xlim(0, planned.phases[-1].span.end)
    axes.set_xlabel(f"optimizer step ({planned.steps_per_epoch} per epoch)")
    axes.set_title(title, fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    save_figure(figure, path, formats=(".svg", ".png", ".pdf"))


def _label(row: StageRow) -> str:
    if not row.trainable_tensors:
        return "frozen"
    low, high = row.lr or (0.0, 0.0)
    rate = f"{low:.2g}" if low == high else f"{low:.2g}–{high:.2g}"
    part = "" if row.trainable_tensors == row.tensors else f", {row.trainable_tensors} of {row.tensors} tensors"
    return f"lr {rate}{part}"


def _saved(cost: int, full: int) -> str:
    return f"{100 * (1 - cost / full):.1f} %"
