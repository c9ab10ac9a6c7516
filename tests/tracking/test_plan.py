"""The plan of a run: its phases, their costs, and why it is impossible."""

from pathlib import Path

import pytest
import torch
from torch import nn

from frostline.freezing import FreezePolicy, Phase, Until, stages_of
from frostline.tracking.plan import backward_cost, draw_plan, plan, plan_table


class Three(nn.Module):
    """Two linear stages and a head, whose FLOPs are known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16, bias=False)
        self.second = nn.Linear(16, 32, bias=False)
        self.head = nn.Linear(32, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.head(self.second(self.first(x)))
        return hidden


TWO_PHASES = FreezePolicy(
    phases=(
        Phase(name="top", train=("head",), until=Until(epochs=1), lr={"head": 0.5}),
        Phase(name="whole", train=("all",)),
    )
)


def planned(policy: FreezePolicy = TWO_PHASES, *, total_steps: int = 30) -> object:
    network = Three()
    resolved = policy.resolve(network)
    return plan(network, resolved, images=torch.rand(2, 8), lr=0.1, steps_per_epoch=10, total_steps=total_steps)


def test_backward_flops_are_those_counted_by_hand() -> None:
    network = Three()
    # Per image: 2·in·out for each weight's gradient, and again for the gradient handed on, which the first needs not.
    weights = 2 * (8 * 16 + 16 * 32 + 32 * 4)
    handed_on = 2 * (16 * 32 + 32 * 4)
    assert backward_cost(network, torch.rand(2, 8)).flops == weights + handed_on
    network.first.requires_grad_(False)
    network.second.requires_grad_(False)
    assert backward_cost(network, torch.rand(2, 8)).flops == 2 * 32 * 4


def test_measuring_leaves_the_network_and_the_random_state_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(2, 3, 8, 8)
    state = torch.get_rng_state()
    backward_cost(network, images)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_phases_begin_and_end_where_the_policy_says() -> None:
    phases = planned().phases  # type: ignore[attr-defined]
    spans = [phase.span for phase in phases]
    assert [(span.phase.name, span.start, span.end) for span in spans] == [("top", 0, 10), ("whole", 10, 30)]
    assert [phase.cost.flops for phase in phases] == [256, 2816]
    assert phases[0].rows[-1].lr == (0.05, 0.05)


def test_the_table_shows_steps_rates_and_savings() -> None:
    top, whole = plan_table(planned()).splitlines()[1:]  # type: ignore[arg-type]
    assert top.split()[:2] == ["top", "0-9"]
    assert "head" in top
    assert "128" in top  # 32 · 4 parameters
    assert f"{100 * (1 - 256 / 2816):.1f} %" in top
    assert whole.split()[-2:] == ["0.0", "%"]


def test_the_network_is_left_in_the_first_phase() -> None:
    network = Three()
    plan(network, TWO_PHASES.resolve(network), images=torch.rand(2, 8), lr=0.1, steps_per_epoch=10, total_steps=30)
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["head.weight"]


def test_a_phase_that_would_never_begin_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match=r"phase `whole` would begin after 10 steps, but the run has 10"):
        planned(total_steps=10)


def test_the_picture_names_every_stage_and_phase(tmp_path: Path) -> None:
    path = tmp_path / "plans" / "plan.svg"
    draw_plan(planned(), path, title="three, two phases")  # type: ignore[arg-type]
    text = path.read_text()
    assert "<svg" in text
    for word in ("three, two phases", "top", "whole", "frozen", *stages_of(Three())):
        assert f">{word}<" in text
