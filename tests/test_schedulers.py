"""Learning rates at known steps."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from frostline.config.groups import RUN_GROUPS
from frostline.schedulers import SCHEDULERS, WARMUP_START, SchedulerBuilder, constant, cosine, onecycle, step

# The rise from WARMUP_START over five steps, in tenths of the full rate of 0.1.
RISE_OF_5 = [0.0001, 0.02008, 0.04006, 0.06004, 0.08002]


def optimizer_at(lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def rates(build: SchedulerBuilder, *, steps: int = 10, epoch: int = 5, lr: float = 0.1) -> list[float]:
    """The learning rate of each step, and the one after the last."""
    optimizer = optimizer_at(lr)
    scheduler = build(optimizer, steps, epoch)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def close(values: Sequence[float]) -> object:
    return pytest.approx(values, abs=1e-12)


def test_constant() -> None:
    assert rates(constant()) == close([0.1] * 11)


def test_constant_reaches_its_full_rate_after_the_warm_up() -> None:
    assert rates(constant(warmup=0.5)) == close([*RISE_OF_5, *[0.1] * 6])


def test_warm_up_starts_above_zero_and_lasts_its_share_of_the_run() -> None:
    seen = rates(constant(warmup=0.1), steps=100)
    assert seen[0] == pytest.approx(0.1 * WARMUP_START)
    assert seen[9] < 0.1
    assert seen[10] == 0.1


def test_cosine_ends_at_zero_after_the_last_step() -> None:
    seen = rates(cosine())
    assert (seen[0], seen[5], seen[10]) == close((0.1, 0.05, 0.0))
    assert seen[2] == pytest.approx(0.05 * (1 + math.cos(math.pi / 5)))


def test_cosine_ends_at_its_min_factor() -> None:
    seen = rates(cosine(min_factor=0.2))
    assert (seen[0], seen[5], seen[10]) == close((0.1, 0.06, 0.02))


def test_cosine_after_a_warm_up_takes_the_rest_of_the_run() -> None:
    seen = rates(cosine(warmup=0.5))
    assert seen[:6] == close([*RISE_OF_5, 0.1])
    assert seen[6] == pytest.approx(0.05 * (1 + math.cos(math.pi / 5)))
    assert seen[10] == pytest.approx(0.0, abs=1e-12)


def test_step_falls_after_each_third_of_the_run_without_a_step_size() -> None:
    assert rates(step(), steps=9) == close([0.1] * 3 + [0.01] * 3 + [0.001] * 3 + [0.0001])
    assert rates(step(gamma=0.5), steps=4) == close([0.1] * 2 + [0.05] * 2 + [0.025])


def test_step_falls_every_step_size_epochs() -> None:
    assert rates(step(step_size=1, gamma=0.1)) == close([0.1] * 5 + [0.01] * 5 + [0.001])
    assert rates(step(step_size=2, gamma=0.5), steps=12, epoch=3) == close([0.1] * 6 + [0.05] * 6 + [0.025])


def test_step_falls_at_the_same_epochs_after_a_warm_up() -> None:
    seen = rates(step(step_size=1, gamma=0.1, warmup=0.2))
    assert seen == close([0.0001, 0.05005, 0.1, 0.1, 0.1, *[0.01] * 5, 0.001])


def test_onecycle_goes_up_in_its_warm_up_and_down_to_almost_nothing() -> None:
    seen = rates(onecycle(warmup=0.3))
    assert seen[0] == pytest.approx(0.1 / 25)
    assert seen[1] == pytest.approx((0.1 / 25 + 0.1) / 2)
    assert seen[2] == pytest.approx(0.1)
    assert seen[9] == pytest.approx(0.1 / 25 / 1e4)
    assert seen[10] == seen[9]


def test_onecycle_linear() -> None:
    seen = rates(onecycle(warmup=0.5, div_factor=10, final_div_factor=10, anneal="linear"), steps=10)
    assert seen[:5] == close([0.01, 0.0325, 0.055, 0.0775, 0.1])
    assert seen[5:10] == close([0.0802, 0.0604, 0.0406, 0.0208, 0.001])


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_onecycle_has_the_rates_of_torchs(anneal: str) -> None:
    def torchs(optimizer: torch.optim.Optimizer, steps: int, _: int) -> LRScheduler:
        return OneCycleLR(
            optimizer, max_lr=0.1, total_steps=steps, pct_start=0.25, anneal_strategy=anneal, cycle_momentum=False
        )

    own = rates(onecycle(warmup=0.25, anneal=anneal), steps=100)
    assert own[:100] == close(rates(torchs, steps=100)[:100])


def test_onecycle_leaves_momentum_as_configured() -> None:
    optimizer = optimizer_at()
    scheduler = onecycle()(optimizer, 10, 5)
    for _ in range(10):
        assert optimizer.param_groups[0]["momentum"] == 0.9
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.5, 0.9])
def test_a_run_of_few_steps_trains(steps: int, warmup: float) -> None:
    """torch's OneCycleLR divides by zero at a rise of one step, and starts a run of one step at rate 0."""
    for build in (constant, cosine, onecycle):
        seen = rates(build(warmup=warmup), steps=steps, epoch=1)
        assert 0 < seen[0] <= 0.1
        assert all(0 <= rate <= 0.1 for rate in seen)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_group_follows_at_its_own_rate(name: str) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr": 0.1}, {"params": [parameters[1]], "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    options = {"step_size": 1} if name == "step" else {}
    scheduler = SCHEDULERS[name](warmup=0.5, **options)(optimizer, 8, 2)
    for _ in range(8):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(10 * optimizer.param_groups[1]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resumed_schedule_goes_on_where_it_was(name: str) -> None:
    options = {"step_size": 1} if name == "step" else {}
    build = SCHEDULERS[name](warmup=0.3, **options)
    whole = rates(build)
    first = optimizer_at()
    scheduler = build(first, 10, 5)
    for _ in range(4):
        first.step()
        scheduler.step()
    second = optimizer_at()
    resumed = build(second, 10, 5)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    seen = []
    for _ in range(6):
        seen.append(second.param_groups[0]["lr"])
        second.step()
        resumed.step()
    assert seen == whole[4:10]


def test_every_schedule_is_described_in_the_schema() -> None:
    assert SCHEDULERS.keys() == RUN_GROUPS["scheduler"].by_name.keys()


@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((name, "warmup") for name in SCHEDULERS),
        ("cosine", "min_factor"),
        ("step", "gamma"),
        ("onecycle", "div_factor"),
        ("onecycle", "final_div_factor"),
    ],
)
def test_a_factor_out_of_range_is_refused_with_its_key(name: str, key: str, value: float) -> None:
    options = {"step_size": 1} if name == "step" else {}
    with pytest.raises(ValueError, match=rf"^{key}={value} is out of range"):
        SCHEDULERS[name](**{**options, key: value})
