"""When phases change: by epochs, steps, fractions and metrics, beside Lightning's EarlyStopping; known beforehand."""

import re
from typing import Any

import lightning.pytorch as pl
import pytest
from freezing.tiny import TinyModule, Validates, fit, loader, metric, phases, starts, trainer
from lightning.pytorch.callbacks import EarlyStopping

from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.freezing.phase_clock import PhaseState, fraction_steps, schedule_warnings, timeline, warmup_warnings

NAN = float("nan")


class Flags(pl.Callback):
    """Whether conv1 trains, batch by batch."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(pl_module.net.conv1.weight.requires_grad)


@pytest.mark.parametrize(
    ("until", "begins"),
    [({"epochs": 1}, [(0, 0), (4, 1), (8, 2)]), ({"steps": 3}, [(0, 0), (3, 0), (6, 1)]),
     ({"fraction": 0.25}, [(0, 0), (4, 1), (8, 2)])],
    ids=["epochs", "steps within an epoch", "fraction"],
)  # fmt: skip
def test_phases_begin_when_they_are_due(until, begins):
    assert [entry[1:] for entry in starts(fit(phases(until=until)))] == begins


def test_epochs_count_from_the_start_of_the_phase():
    """A phase that begins within an epoch counts that epoch, and ends with an epoch."""
    timed = [("a", "head", {"steps": 2}), ("b", "conv2", {"epochs": 2}), ("c", "all", None)]
    plain = [{"name": name, "train": [train], "until": until} for name, train, until in timed]
    assert starts(fit(FreezePolicy.from_dict({"phases": plain}))) == [("a", 0, 0), ("b", 2, 0), ("c", 8, 2)]


def test_phases_change_at_optimizer_steps_only():
    """5 batches, 2 to a step: 3 steps an epoch, the last of one batch; `all` begins after 2 steps, with batch 4."""
    flags = Flags()
    policy = phases(until={"steps": 2}, count=2)
    schedule = fit(policy, batches=5, max_epochs=2, accumulate_grad_batches=2, callbacks=[flags])
    assert starts(schedule) == [("middle", 0, 0), ("all", 2, 0)]
    assert flags.seen == [False] * 4 + [True] * 6


def test_a_phase_that_is_due_between_two_batches_of_one_step_changes_at_the_next_step():
    """Validation after batches 3, 6 and 9, the third of which is no better, at two batches a step: change at 10."""
    flags = Flags()
    module = Validates(lambda step: {1: 2.0, 3: 3.0}.get(step, 1.0))
    settings = {"batches": 6, "max_epochs": 6, "accumulate_grad_batches": 2, "val_check_interval": 3}
    policy = phases(until=metric(patience=1, max_epochs=5, mode="max"), count=2)
    schedule = fit(policy, module=module, callbacks=[flags], **settings)
    assert flags.seen[:12] == [False] * 10 + [True] * 2
    assert starts(schedule)[1] == ("all", 5, 1)


@pytest.mark.parametrize(
    ("until", "values", "begins", "reason"),
    [
        # Best 2.0 in epoch 1, then two that are no better: the next phase begins in epoch 4.
        (metric(), [3, 2, 2, 2.5, 1, 1, 1, 1], 4, "val/loss has not improved on 2 in 2 evaluations"),
        (metric(mode="max"), [3, 2, 2, 2.5, 1, 1, 1, 1], 3, "has not improved on 3"),
        (metric(patience=1), [3, 2, 2, 2.5, 1, 1, 1, 1], 3, "in 1 evaluations"),
        (metric(min_delta=0.4), [3, 2.7, 2.7, 2.7, 1, 1, 1, 1], 3, "has not improved on 3"),
        (metric(max_epochs=2), [3, 2, 1, 0.5, 0.4, 0.3, 0.2, 0.1], 2, "2 epochs have passed, the most"),
        (metric(), [3, 2, NAN, NAN, 1, 1, 1, 1], 4, "has not improved on 2"),
        (metric(), [NAN, 2, 1.5, 1, 1, 1, 1, 1], 6, "has not improved on 1|6 epochs"),
        (metric(), [NAN] * 8, 2, "val/loss has been no number in 2 evaluations"),
    ],
    ids=["min", "max", "patience", "min_delta", "max_epochs", "nan", "nan first", "nan only"],
)
def test_a_metric_that_has_stopped_improving_ends_a_phase(until, values, begins, reason):
    module = Validates(lambda step: values[step // 4 - 1])
    schedule = fit(phases(until=until, count=2), module=module, max_epochs=8)
    assert starts(schedule) == [("middle", 0, 0), ("all", 4 * begins, begins)]
    assert re.search(reason, schedule.history[1]["reason"])


def test_a_metric_that_is_not_logged_is_an_error_with_a_suggestion():
    message = r"Phase `middle` waits for `val/los`, which was not logged.*Did you mean `val/loss`"
    with pytest.raises(ValueError, match=message):
        fit(phases(until=metric(metric="val/los"), count=2), max_epochs=7)


@pytest.mark.parametrize(
    ("until", "settings", "message"),
    [(metric(), {"max_epochs": 7}, "has no validation"), ({"fraction": 0.5}, {"max_epochs": -1}, "length is unknown")],
    ids=["metric without validation", "fraction of an endless run"],
)
def test_a_phase_whose_end_cannot_be_known_is_refused(until, settings, message):
    schedule = FreezingSchedule(policy=phases(until=until, count=2), attribute="net")
    with pytest.raises(ValueError, match=message):
        trainer([schedule], **settings).fit(TinyModule(), loader())


def test_a_policy_longer_than_the_run_warns_and_leaves_its_length():
    message = r"phase `all` would begin after 16 steps, but the run has 12, so it never"
    with pytest.warns(UserWarning, match=message):
        schedule = fit(phases(until={"epochs": 2}), max_epochs=3)
    assert starts(schedule) == [("head", 0, 0), ("middle", 8, 2)]


@pytest.mark.parametrize("first", [True, False], ids=["stopping first", "schedule first"])
@pytest.mark.parametrize("in_epoch_end", [True, False])
@pytest.mark.parametrize(
    "until", [metric(max_epochs=8), {"epochs": 3}, {"steps": 12}], ids=["metric", "epochs", "steps"]
)
def test_early_stopping_counts_from_the_start_of_a_phase(first, in_epoch_end, until):
    """The value never changes: patience 2 runs out in the third epoch, where the phase ends, and again in its third."""
    stopping = EarlyStopping("val/loss", patience=2, check_on_train_epoch_end=in_epoch_end)
    place = {"before" if first else "callbacks": [stopping]}
    module = Validates(lambda step: 1.0)
    schedule = fit(phases(until=until, count=2), module=module, max_epochs=9, num_sanity_val_steps=0, **place)
    assert starts(schedule) == [("middle", 0, 0), ("all", 12, 3)]
    assert (module.trainer.global_step, module.trainer.current_epoch) == (24, 6)


def test_early_stopping_within_a_phase_still_stops():
    module, stopping = Validates(lambda step: 1.0), EarlyStopping("val/loss", patience=2)
    policy = phases(until={"epochs": 5}, count=2)
    schedule = fit(policy, module=module, callbacks=[stopping], max_epochs=9, num_sanity_val_steps=0)
    assert (module.trainer.global_step, starts(schedule)) == (12, [("middle", 0, 0)])


def test_a_second_fit_of_the_same_trainer_continues_in_its_phase():
    schedule = FreezingSchedule(policy=phases(until={"steps": 6}), attribute="net")
    ours, module = trainer([schedule], max_epochs=2), TinyModule()
    with pytest.warns(UserWarning, match="never begins"):
        ours.fit(module, loader())
    ours.fit_loop.max_epochs = 4
    ours.fit(module, loader())
    assert starts(schedule) == [("head", 0, 0), ("middle", 6, 1), ("all", 12, 3)]


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
    assert [span.start for span in spans] == first_steps
    assert not any(span.latest for span in spans)


def test_after_a_metric_phase_only_the_latest_step_is_known():
    waiting = {"metric": "val/loss", "mode": "min", "patience": 1, "max_epochs": 3}
    spans = timeline(policy(waiting, {"steps": 5}), steps_per_epoch=10, total_steps=100)
    assert [(span.start, span.latest) for span in spans] == [(0, False), (30, True), (35, True)]
    short = timeline(policy(waiting), steps_per_epoch=10, total_steps=30)
    [message] = schedule_warnings(short, total_steps=30)
    assert "at the latest after 30 steps, but the run has 30, so it may never begin" in message
    assert schedule_warnings(short, total_steps=30, sure=True) == []
    begun = timeline(policy(waiting, {"steps": 5}), steps_per_epoch=10, total_steps=30, starts=[0, 12])
    assert [(span.start, span.end, span.latest) for span in begun] == [(0, 30, False), (12, 17, False), (17, 30, False)]


@pytest.mark.parametrize("until", [{"epochs": 1}, {"steps": 10}, {"fraction": 0.5}], ids=str)
def test_a_policy_that_fits_says_nothing(until):
    for total, found in ((11, 0), (1, 1) if "fraction" in until else (10, 1)):
        spans = timeline(policy(until), steps_per_epoch=10, total_steps=total)
        assert len(schedule_warnings(spans, total_steps=total, sure=True)) == found


def test_a_share_of_the_run_is_at_least_one_step():
    assert fraction_steps(0.01, 10) == 1
    with pytest.raises(ValueError, match="length is unknown"):
        fraction_steps(0.5, float("inf"))


def test_an_evaluation_counts_once_per_step():
    until = policy({"metric": "m", "mode": "min", "patience": 3, "max_epochs": 9}).phases[0].until
    state = PhaseState()
    state.begin(0, step=0, epoch=0)
    for step, value in [(4, 2.0), (4, 5.0), (8, 3.0), (8, 3.0)]:
        state.evaluate(until, value, step=step)
    assert (state.best, state.stale) == (2.0, 1)


@pytest.mark.parametrize(
    ("until", "warmups", "steps"),
    [
        ({"steps": 8}, (8, 32), (8, 32)),
        ({"steps": 8}, (9, 0), (8, 0)),
        ({"steps": 8}, (0, 33), (0, 32)),
        ({"fraction": 0.2}, (20, 64), (8, 32)),
        ({"metric": "m", "mode": "min", "patience": 1, "max_epochs": 2}, (40, 0), (20, 0)),
        ({"steps": 40}, (0, 5), (0, 5)),  # it never begins, which `schedule_warnings` says
    ],
    ids=str,
)
def test_a_warm_up_is_no_longer_than_its_phase(until, warmups, steps):
    plain = policy(until).to_dict()
    for phase, given in zip(plain["phases"], warmups, strict=True):
        phase["warmup_steps"] = given
    spans = timeline(FreezePolicy.from_dict(plain), steps_per_epoch=10, total_steps=40)
    assert tuple(span.warmup_steps for span in spans) == steps
    shortened = [(name, now, was) for name, now, was in zip(("p0", "last"), steps, warmups, strict=True) if now < was]
    assert warmup_warnings(spans) == [
        f"Phase `{name}` warms up in {now} steps instead of warmup_steps={was}: it lasts no longer."
        for name, now, was in shortened
    ]


def test_a_run_that_ends_before_a_phase_says_so(caplog):
    """Early stopping ends it in the first phase."""
    stopping = EarlyStopping("val/loss", patience=1)
    module = Validates(lambda step: 1.0)
    fit(phases(until={"epochs": 3}), module=module, callbacks=[stopping], max_epochs=9)
    assert "The run ended after 8 steps in phase `head`; never begun: `middle`, `all`." in caplog.messages
    caplog.clear()
    fit(phases(until={"epochs": 1}))
    assert not [message for message in caplog.messages if "never begun" in message]
