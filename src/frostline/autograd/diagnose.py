"""Diagnose the gradient of each stage in one sentence; all of them as a table for terminals and files."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Group
from rich.text import Text

from frostline.autograd.flow import Flow
from frostline.tables import new_table

# Bounds of the sentences. A step that moves weights by about 0.001 of their norm is usual; the others mark what is
# worth a look, orders of magnitude away from a healthy ResNet-18, and decide nothing.
VANISHING, EXPLODING = 1e-5, 1e5  # mean |g| over that of the last stage with a gradient
FAST, SLOW = 0.1, 1e-7  # update-to-weight ratio
NOISY = 10.0  # standard deviation over the norm of the mean: one batch hardly determines the direction


class Finding(NamedTuple):
    """A contradiction between what should train and what receives a gradient.

    kind: "frozen-with-gradient" or "trainable-without".
    """

    kind: str
    stage: str
    sentence: str


def findings_of(flows: Sequence[Flow]) -> list[Finding]:
    """The contradictions, stage by stage; a stage may have both."""
    found = []
    for flow in flows:
        some = "{} of {}'s {} tensors: each is"
        if stray := flow.frozen_receiving:
            which = f"{flow.name} is" if stray == flow.tensors else some.format(stray, flow.name, flow.tensors)
            sentence = (
                f"{which} frozen and yet holds a gradient: a bug, for an optimizer with momentum or weight decay will "
                "move it."
            )
            found.append(Finding("frozen-with-gradient", flow.name, sentence))
        if missing := flow.trainable - (flow.receiving - stray):
            sentence = f"{flow.name} receives no gradient although it is trainable"
            if missing != flow.tensors:
                sentence = f"{some.format(missing, flow.name, flow.tensors)} trainable and yet receives no gradient"
            found.append(Finding("trainable-without", flow.name, f"{sentence}: a bug, the loss does not depend on it."))
    return found


def diagnose(flow: Flow, flows: Sequence[Flow]) -> str:
    """One sentence on a stage; `flows` are all stages, in execution order.

    The reference for "vanishing" and "exploding" is the last stage with a gradient, usually the head.
    """
    name = flow.name
    if wrong := findings_of([flow]):
        return " ".join(finding.sentence for finding in wrong)
    if not flow.tensors:
        return f"{name} has no parameters."
    if not flow.receiving or flow.mean is None:
        return f"{name} receives no gradient: it is frozen."
    if not math.isfinite(flow.squares):
        return f"{name}'s gradient is not finite: lower the learning rate, or look for a division or logarithm of 0."
    if flow.squares == 0:
        return f"{name} is trainable, but its gradient is exactly 0: dead ReLUs, or a loss that is flat here."
    last = next(other for other in reversed(flows) if other.receiving)
    ratio = flow.mean / last.mean if last.mean else math.inf
    if ratio < VANISHING:
        return f"{name} learns next to nothing; vanishing: its mean gradient is {ratio:.0e} of {last.name}'s."
    if EXPLODING < ratio < math.inf:
        return f"{name} outweighs all; exploding: its mean gradient is {ratio:.0e} times {last.name}'s."
    sentence = f"{name} learns"
    if flow.trainable != flow.tensors:
        sentence += f" in part ({flow.trainable} of {flow.tensors} tensors)"
    if (update := flow.update_ratio) is not None:
        pace = ", too fast" if update > FAST else ", hardly" if update < SLOW else ""
        by = f"{update:.0e} of their norm" if update < SLOW else f"{100 * update:.2g} %"
        sentence += f"{pace}: one step moves its weights by {by}"
    if flow.noise is not None and flow.noise >= NOISY:
        sentence += f"; its gradient is mostly noise ({flow.noise:.0f} times its mean): a larger batch would help"
    return f"{sentence}."


def gradient_table(flows: Sequence[Flow]) -> Group:
    """A row for each stage and, below, a sentence on each; fits 80 columns."""
    table = new_table("stage", "trains", "norm", "mean |g|", "max |g|", "zeros", "Δw/w", "noise")
    for flow in flows:
        share = "-" if flow.zero_share is None else f"{100 * flow.zero_share:.3g} %"
        norm, mean, largest, ratio, noise = (
            "-" if number is None else f"{number:.2e}"
            for number in (flow.norm, flow.mean, flow.largest, flow.update_ratio, flow.noise)
        )
        cells = (flow.name, f"{flow.trainable}/{flow.tensors}", norm, mean, largest, share, ratio, noise)
        table.add_row(*cells, style="" if flow.trainable else "cyan")
    return Group(table, Text(""), *(Text(diagnose(flow, flows)) for flow in flows))
