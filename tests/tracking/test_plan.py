"""The plan of a run: its phases, their costs, and why it is impossible."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from frostline.freezing import FreezePolicy, Phase, Until, stages_of
from frostline.optim import parameter_groups
from frostline.schedulers import constant
from frostline.tracking.plan import Plan, backward_cost, draw_plan, plan, plan_table, rates_table
from frostline.tracking.planned_rates import planned_rates


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


def planned(policy: FreezePolicy = TWO_PHASES, *, total_steps: int = 30, network: nn.Module | None = None) -> Plan:
    network = Three() if network is None else network
    resolved = policy.resolve(network)
    optimizer = torch.optim.SGD(parameter_groups(network, resolved=resolved, lr=0.1))
    rates = partial(
        planned_rates,
        optimizer=optimizer,
        scheduler=constant(warmup=0.1)(optimizer, total_steps, 10),
        network=network,
        resolved=resolved,
        total_steps=total_steps,
    )
    length = {"steps_per_epoch": 10, "total_steps": total_steps}
    return plan(network, resolved, images=torch.rand(2, 8), rates=rates, **length)


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
    phases = planned().phases
    spans = [phase.span for phase in phases]
    assert [(span.phase.name, span.start, span.end) for span in spans] == [("top", 0, 10), ("whole", 10, 30)]
    assert [phase.cost.flops for phase in phases] == [256, 2816]


def test_the_tables_show_steps_savings_and_the_rates_of_each_phase() -> None:
    """The head trains at half of 0.1, after 3 steps of warm-up from a thousandth: 0.0001, 0.0334, 0.0667."""
    top, whole = (line.split() for line in plan_table(planned()).splitlines()[1:])
    assert top == ["top", "0-9", "0-1", "128", f"{100 * (1 - 256 / 2816):.1f}", "%", top[-2], "%"]
    assert whole[-2:] == ["0.0", "%"]
    assert [line.split() for line in rates_table(planned()).splitlines()[1:]] == [
        ["top", "head", "5e-05", "0.05", "0.05"],
        ["whole", "first", "second", "head", "0.1", "0.1", "0.1"],
    ]


def test_the_network_is_left_in_the_first_phase() -> None:
    network = Three()
    planned(network=network)
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["head.weight"]


def test_a_phase_that_does_not_begin_has_no_row() -> None:
    assert [phase.span.phase.name for phase in planned(total_steps=10).phases] == ["top"]


def test_the_picture_names_every_stage_phase_and_group(tmp_path: Path) -> None:
    path = tmp_path / "plans" / "plan.svg"
    draw_plan(planned(), path, title="three, two phases")
    text = path.read_text()
    assert "<svg" in text
    words = ("three, two phases", "top", "whole", "frozen", "first second", "learning rate", *stages_of(Three()))
    for word in words:
        assert f">{word}<" in text
