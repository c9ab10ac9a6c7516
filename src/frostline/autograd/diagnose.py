"""Diagnose the gradient of each stage in one sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from frostline.autograd.flow import Flow

# Bounds of the sentences. A step that moves weights by about 0.001 of their norm is usual; the others mark what is
# worth a look, orders of magnitude away from a healthy ResNet-18, and decide nothing.
VANISHING, EXPLODING = 1e-5, 1e5  # mean |g| over that of the last stage with a gradient
FAST, SLOW = 0.1, 1e-7  # update-to-weight ratio
NOISY = 10.0  # standard deviation over the norm of the mean: one batch hardly determines the direction


@dataclass(frozen=True)
class Finding:
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
        if flow.frozen_receiving:
            found.append(
                Finding(
                    "frozen-with-gradient",
                    flow.name,
                    f"{_some(flow.frozen_receiving, flow.tensors, flow.name)} frozen and yet holds a gradient: a bug, "
                    "for an optimizer with momentum or weight decay will move it.",
                )
            )
        missing = flow.trainable - (flow.receiving - flow.frozen_receiving)
        if missing:
            sentence = f"{_some(missing, flow.tensors, flow.name)} trainable and yet receives no gradient"
            if missing == flow.tensors:
                sentence = f"{flow.name} receives no gradient although it is trainable"
            found.append(Finding("trainable-without", flow.name, f"{sentence}: a bug, the loss does not depend on it."))
    return found


def diagnose(flow: Flow, flows: Sequence[Flow]) -> str:
    """One sentence on a stage; `flows` are all stages, in execution order.

    The reference for "vanishing" and "exploding" is the last stage with a gradient, usually the head.
    """
    wrong = findings_of([flow])
    if wrong:
        return " ".join(finding.sentence for finding in wrong)
    if not flow.tensors:
        return f"{flow.name} has no parameters."
    if not flow.receiving or flow.norm is None or flow.mean is None:
        return f"{flow.name} receives no gradient: it is frozen."
    if not math.isfinite(flow.squares):
        return (
            f"{flow.name}'s gradient is not finite: lower the learning rate, or look for a division or logarithm of 0."
        )
    if flow.squares == 0:
        return f"{flow.name} is trainable, but its gradient is exactly 0: dead ReLUs, or a loss that is flat here."
    last = next(other for other in reversed(flows) if other.receiving)
    ratio = flow.mean / last.mean if last.mean else math.inf
    if last is not flow and ratio < VANISHING:
        return f"{flow.name} learns next to nothing; vanishing: its mean gradient is {ratio:.0e} of {last.name}'s."
    if last is not flow and math.isfinite(ratio) and ratio > EXPLODING:
        return f"{flow.name} outweighs all; exploding: its mean gradient is {ratio:.0e} times {last.name}'s."
    return f"{flow.name} learns{_partly(flow)}{_pace(flow)}{_noise(flow)}."


def _partly(flow: Flow) -> str:
    return "" if flow.trainable == flow.tensors else f" in part ({flow.trainable} of {flow.tensors} tensors)"


def _pace(flow: Flow) -> str:
    if flow.update_ratio is None:
        return ""
    if flow.update_ratio > FAST:
        return f", too fast: one step moves its weights by {_percent(flow.update_ratio)}"
    if flow.update_ratio < SLOW:
        return f", hardly: one step moves its weights by {flow.update_ratio:.0e} of their norm"
    return f": one step moves its weights by {_percent(flow.update_ratio)}"


def _noise(flow: Flow) -> str:
    if flow.noise is None or flow.noise < NOISY:
        return ""
    return f"; its gradient is mostly noise ({flow.noise:.0f} times its mean): a larger batch would help"


def _some(number: int, tensors: int, stage: str) -> str:
    if number == tensors:
        return f"{stage} is"
    return f"{number} of {stage}'s {tensors} tensors: each is"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2g} %"
