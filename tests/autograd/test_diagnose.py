import math

import pytest

from frostline.autograd.diagnose import diagnose, findings_of, gradient_table
from frostline.autograd.flow import Flow
from frostline.tables import as_text


def flow(name, mean=0.01, *, trainable=2, receiving=2, ratio=1e-3, noise=1.0, stray=0):
    """Two tensors with 100 entries in all, each entry `mean` in size."""
    return Flow(
        name, 2, trainable, receiving, stray, 100 if receiving else 0, 100 * mean**2, 100 * mean, mean, 0,
        weights=1.0, moved=ratio**2, mean_squares=1.0, deviations=noise**2,
    )  # fmt: skip


HEAD = flow("head", ratio=0.02)
FROZEN = flow("layer1", trainable=0, receiving=0)


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (FROZEN, "layer1 receives no gradient: it is frozen."),
        (
            flow("layer1", receiving=0),
            "layer1 receives no gradient although it is trainable: a bug, the loss does not depend on it.",
        ),
        (
            flow("layer1", receiving=1),
            "1 of layer1's 2 tensors: each is trainable and yet receives no gradient: a bug, the loss does not depend "
            "on it.",
        ),
        (
            flow("layer1", trainable=0, stray=2),
            "layer1 is frozen and yet holds a gradient: a bug, for an optimizer with momentum or weight decay will "
            "move it.",
        ),
        (
            flow("layer1", 1e-11),
            "layer1 learns next to nothing; vanishing: its mean gradient is 1e-09 of head's.",
        ),
        (flow("layer1", 1e5), "layer1 outweighs all; exploding: its mean gradient is 1e+07 times head's."),
        (
            flow("layer1", 0.0),
            "layer1 is trainable, but its gradient is exactly 0: dead ReLUs, or a loss that is flat here.",
        ),
        (
            flow("layer1", math.nan),
            "layer1's gradient is not finite: lower the learning rate, or look for a division or logarithm of 0.",
        ),
        (flow("layer1"), "layer1 learns: one step moves its weights by 0.1 %."),
        (flow("layer1", ratio=0.5), "layer1 learns, too fast: one step moves its weights by 50 %."),
        (flow("layer1", ratio=1e-9), "layer1 learns, hardly: one step moves its weights by 1e-09 of their norm."),
        (
            flow("layer1", noise=40.0),
            "layer1 learns: one step moves its weights by 0.1 %; its gradient is mostly noise (40 times its mean): a "
            "larger batch would help.",
        ),
        (
            flow("layer1", trainable=1, receiving=1),
            "layer1 learns in part (1 of 2 tensors): one step moves its weights by 0.1 %.",
        ),
        (Flow("layer1"), "layer1 has no parameters."),
    ],
)  # fmt: skip
def test_each_state_has_its_sentence(stage, sentence):
    assert diagnose(stage, [stage, HEAD]) == sentence


def test_the_reference_is_the_last_stage_that_has_a_gradient():
    frozen_head = flow("head", trainable=0, receiving=0)
    small, large = flow("layer1", 1e-9), flow("layer2", 1.0)
    assert "vanishing: its mean gradient is 1e-09 of layer2's" in diagnose(small, [small, large, frozen_head])
    assert diagnose(large, [small, large, frozen_head]) == "layer2 learns: one step moves its weights by 0.1 %."


def test_findings_are_the_two_contradictions_and_nothing_else():
    assert findings_of([FROZEN, flow("layer2"), HEAD, Flow("empty")]) == []
    found = findings_of([flow("layer1", receiving=0), flow("layer2", trainable=0, stray=2), HEAD])
    assert [(finding.kind, finding.stage) for finding in found] == [
        ("trainable-without", "layer1"),
        ("frozen-with-gradient", "layer2"),
    ]


def test_a_stage_may_have_both_contradictions():
    both = flow("layer1", trainable=1, receiving=1, stray=1)
    assert [finding.kind for finding in findings_of([both])] == ["frozen-with-gradient", "trainable-without"]
    assert diagnose(both, [both]).count("a bug") == 2


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_has_a_row_and_a_sentence_for_each_stage(width):
    stages = [Flow("layer1", tensors=2), flow("layer4", 0.02, trainable=1, receiving=1), HEAD]
    lines = as_text(gradient_table(stages), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split() for line in lines[:4]] == [
        ["stage", "trains", "norm", "mean", "|g|", "max", "|g|", "zeros", "Δw/w", "noise"],
        ["layer1", "0/2", "-", "-", "-", "-", "-", "-"],
        ["layer4", "1/2", "2.00e-01", "2.00e-02", "2.00e-02", "0", "%", "1.00e-03", "1.00e+00"],
        ["head", "2/2", "1.00e-01", "1.00e-02", "1.00e-02", "0", "%", "2.00e-02", "1.00e+00"],
    ]
    assert lines[5:] == [diagnose(stage, stages) for stage in stages]
