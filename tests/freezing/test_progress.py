"""When phases begin, as far as it can be known beforehand."""

import re

import pytest

from frostline.freezing import FreezePolicy
from frostline.freezing.progress import Progress, fraction_steps, schedule_warnings, timeline, warmup_warnings


def policy(*untils):
    phases = [{"name": f"p{index}", "train": ["head"], "until": until} for index, until in enumerate(untils)]
    return FreezePolicy.from_dict({"phases": [*phases, {"name": "last", "train": ["all"]}]})


@pytest.mark.parametrize(
    ("untils", "first_steps"),
    [
        ([{"steps": 3}, {"steps": 4}], [0, 3, 7]),
        ([{"epochs": 1}, {"epochs": 2}], [0, 10, 30]),
        ([{"steps": 3}, {"epochs": 1}], [0, 3, 10]),
        ([{"fraction": 0.25}, {"fraction": 0.5}], [0, 10, 30]),
        ([{"steps": 12}, {"epochs": 1}], [0, 12, 20]),
    ],
    ids=str,
)
def test_timeline(untils, first_steps):
    spans = timeline(policy(*untils), steps_per_epoch=10, total_steps=40)
    assert [span.first_step for span in spans] == first_steps
    assert not any(span.latest for span in spans)


def test_after_a_metric_phase_only_the_latest_step_is_known():
    waiting = {"metric": "val/loss", "mode": "min", "patience": 1, "max_epochs": 3}
    spans = timeline(policy(waiting, {"steps": 5}), steps_per_epoch=10, total_steps=100)
    assert [(span.first_step, span.latest) for span in spans] == [(0, False), (30, True), (35, True)]
    assert (
        "at the latest after 30 steps, but the run has 30"
        in schedule_warnings(policy(waiting), steps_per_epoch=10, total_steps=30)[0]
    )


def test_a_policy_that_fits_says_nothing():
    assert schedule_warnings(policy({"epochs": 1}), steps_per_epoch=10, total_steps=11) == []
    assert len(schedule_warnings(policy({"epochs": 1}), steps_per_epoch=10, total_steps=10)) == 1


def test_a_share_of_the_run_is_at_least_one_step():
    assert fraction_steps(0.01, 10) == 1
    with pytest.raises(ValueError, match="length is unknown"):
        fraction_steps(0.5, float("inf"))


def test_an_evaluation_counts_once_per_step():
    until = policy({"metric": "m", "mode": "min", "patience": 3, "max_epochs": 9}).phases[0].until
    progress = Progress()
    progress.begin(0, step=0, epoch=0)
    for step, value in [(4, 2.0), (4, 5.0), (8, 3.0), (8, 3.0)]:
        progress.evaluate(until, value, step=step)
    assert (progress.best, progress.stale) == (2.0, 1)
    assert Progress.from_dict(progress.to_dict()) == progress


@pytest.mark.parametrize(
    ("until", "warmups", "messages"),
    [
        ({"steps": 8}, (8, 32), []),
        ({"steps": 8}, (9, 0), ["`p0` lasts 8 steps, fewer than its warmup_steps=9: .* reach 89% of"]),
        ({"steps": 8}, (0, 33), ["`last` lasts 32 steps, fewer than its warmup_steps=33: .* reach 97% of"]),
        (
            {"fraction": 0.2},
            (20, 64),
            ["`p0` lasts 8 steps, .* reach 40% of", "`last` lasts 32 steps, .* reach 50% of"],
        ),
        (
            {"metric": "m", "mode": "min", "patience": 1, "max_epochs": 2},
            (40, 0),
            ["`p0` lasts 20 steps at most, .* reach 50% of"],
        ),
        ({"steps": 40}, (0, 5), []),  # it never begins, which `schedule_warnings` says
    ],
    ids=str,
)
def test_a_warm_up_that_is_longer_than_its_phase_is_reported(until, warmups, messages):
    plain = policy(until).to_dict()
    for phase, steps in zip(plain["phases"], warmups, strict=True):
        phase["warmup_steps"] = steps
    found = warmup_warnings(FreezePolicy.from_dict(plain), steps_per_epoch=10, total_steps=40)
    assert len(found) == len(messages)
    for message, pattern in zip(found, messages, strict=True):
        assert re.search(pattern, message)
