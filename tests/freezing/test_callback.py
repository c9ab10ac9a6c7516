"""The callback in a plain LightningModule: when phases change, what is said, what is refused."""

import csv
import logging
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from freezing.tiny import LIGHTNING_WARNINGS, TinyModule, TinyNet, loader, seeded_net, trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from torch import nn

from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.freezing.checks import FrozenTensorChanged
from frostline.freezing.lightning_internals import check_strategy

pytestmark = [
    *LIGHTNING_WARNINGS,
    # All that matters here is which phase is resumed.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # The callback that wrote the checkpoint is not wanted where it is read.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create.*"),
]


def phases(*, until: dict[str, Any], count: int = 3, **region: str) -> FreezePolicy:
    names = [("head", ["head"]), ("middle", ["conv2", "head"]), ("all", ["all"])][-count:]
    timed = [{"name": name, "train": train, "until": until} for name, train in names]
    del timed[-1]["until"]
    return FreezePolicy.from_dict({"phases": timed, **region})


def fit(
    policy: FreezePolicy, *, module: Any = None, batches: int = 4, attribute: str | None = "net", **settings: Any
) -> Any:
    schedule = FreezingSchedule(policy=policy, attribute=attribute)
    ours = trainer([schedule, *settings.pop("callbacks", [])], **{"max_epochs": 4, **settings})
    ours.fit(module or TinyModule(), loader(batches), loader(2))
    return schedule


def starts(schedule: FreezingSchedule) -> list[tuple[str, int, int]]:
    return [(entry["phase"], entry["step"], entry["epoch"]) for entry in schedule.history]


def test_three_lines_in_somebody_elses_project():
    policy = FreezePolicy.static("head")
    module = TinyModule()
    before = module.net.conv1.weight.clone()
    ours = trainer([FreezingSchedule(policy=policy, attribute="net")], max_epochs=2)
    ours.fit(module, loader())
    assert torch.equal(module.net.conv1.weight, before)


def test_epochs():
    assert starts(fit(phases(until={"epochs": 1}))) == [("head", 0, 0), ("middle", 4, 1), ("all", 8, 2)]


def test_steps_end_mid_epoch():
    assert starts(fit(phases(until={"steps": 3}))) == [("head", 0, 0), ("middle", 3, 0), ("all", 6, 1)]


def test_a_share_of_the_run():
    assert starts(fit(phases(until={"fraction": 0.25}))) == [("head", 0, 0), ("middle", 4, 1), ("all", 8, 2)]


def test_epochs_count_from_the_phase_s_own_start():
    """A phase that begins mid-epoch counts that epoch, and ends with an epoch."""
    policy = FreezePolicy.from_dict(
        {
            "phases": [
                {"name": "a", "train": ["head"], "until": {"steps": 2}},
                {"name": "b", "train": ["conv2"], "until": {"epochs": 2}},
                {"name": "c", "train": ["all"]},
            ]
        }
    )
    assert starts(fit(policy)) == [("a", 0, 0), ("b", 2, 0), ("c", 8, 2)]


def test_phases_change_at_optimizer_steps_only():
    """5 batches, 2 to a step: 3 steps an epoch, the last of one batch; `all` begins after 2 steps, with batch 4."""
    trains = []

    class Flags(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            trains.append(pl_module.net.conv1.weight.requires_grad)

    policy = phases(until={"steps": 2}, count=2)
    schedule = fit(policy, batches=5, max_epochs=2, accumulate_grad_batches=2, callbacks=[Flags()])
    assert starts(schedule) == [("middle", 0, 0), ("all", 2, 0)]
    assert trains == [False] * 4 + [True] * 6


def test_a_metric_known_between_two_batches_of_one_step_waits_for_the_next_step():
    """Validation after every third batch, two batches to a step: at batch 3 the phase is due, at batch 4 it changes."""
    trains = []

    class Flags(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            trains.append(pl_module.net.conv1.weight.requires_grad)

    policy = phases(until=metric(patience=1, max_epochs=5, mode="max"), count=2)
    schedule = FreezingSchedule(policy=policy, attribute="net")
    ours = trainer([schedule, Flags()], max_epochs=6, accumulate_grad_batches=2, val_check_interval=3)
    ours.fit(Scripted([2.0, 3.0] + [1.0] * 30), loader(6), loader(2))
    # Validations after batches 3, 6, 9: the third is the first that is no better.
    assert trains[:12] == [False] * 10 + [True] * 2
    assert starts(schedule)[1] == ("all", 5, 1)


class Scripted(TinyModule):
    """Logs a validation loss as written down beforehand, one value per validation; a poor one in the sanity check."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = iter(values)

    def on_validation_epoch_start(self) -> None:
        self.value = -1e9 if self.trainer.sanity_checking else next(self.values)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.value)


def metric(**changes: Any) -> dict[str, Any]:
    return {"metric": "val/loss", "mode": "min", "patience": 2, "max_epochs": 6, **changes}


@pytest.mark.parametrize(
    ("until", "values", "begins", "reason"),
    [
        # Best 2.0 in epoch 1, then two that are no better: thaw at epoch 4.
        (metric(), [3, 2, 2, 2.5, 1, 1, 1, 1], 4, "val/loss has not improved on 2 in 2 evaluations"),
        (metric(mode="max"), [3, 2, 2, 2.5, 1, 1, 1, 1], 3, "has not improved on 3"),
        (metric(patience=1), [3, 2, 2, 2.5, 1, 1, 1, 1], 3, "in 1 evaluations"),
        (metric(min_delta=0.4), [3, 2.7, 2.7, 2.7, 1, 1, 1, 1], 3, "has not improved on 3"),
        (metric(max_epochs=2), [3, 2, 1, 0.5, 0.4, 0.3, 0.2, 0.1], 2, "2 epochs have passed, the most"),
        (metric(), [3, 2, float("nan"), float("nan"), 1, 1, 1, 1], 4, "has not improved on 2"),
        (metric(), [float("nan"), 2, 1.5, 1, 1, 1, 1, 1], 6, "has not improved on 1|6 epochs"),
    ],
    ids=["min", "max", "patience", "min_delta", "max_epochs", "nan", "nan first"],
)
def test_a_metric_that_has_stopped_improving_ends_a_phase(until, values, begins, reason):
    schedule = fit(phases(until=until, count=2), module=Scripted(values), max_epochs=8)
    assert starts(schedule) == [("middle", 0, 0), ("all", 4 * begins, begins)]
    assert re.search(reason, schedule.history[1]["reason"])


def test_a_metric_that_nobody_logs_is_an_error_that_helps():
    with pytest.raises(
        ValueError, match=r"Phase `middle` waits for `val/los`, which was not logged.*Did you mean `val/loss`"
    ):
        fit(phases(until=metric(metric="val/los"), count=2), max_epochs=7)


def test_a_metric_phase_without_validation_is_refused_at_the_start():
    schedule = FreezingSchedule(policy=phases(until=metric(), count=2), attribute="net")
    with pytest.raises(ValueError, match="has no validation"):
        trainer([schedule], max_epochs=7).fit(TinyModule(), loader())


def test_a_policy_longer_than_the_run_is_said_at_the_start_and_changes_nothing():
    schedule = FreezingSchedule(policy=phases(until={"epochs": 2}), attribute="net")
    ours = trainer([schedule], max_epochs=3)
    with pytest.warns(
        UserWarning, match=r"phase `all` would begin after 16 steps, but the run has 12 \(4 per epoch\), so it never"
    ):
        ours.fit(TinyModule(), loader())
    assert ours.max_epochs == 3
    assert starts(schedule) == [("head", 0, 0), ("middle", 8, 2)]


def test_a_fraction_of_an_endless_run_is_refused():
    schedule = FreezingSchedule(policy=phases(until={"fraction": 0.5}, count=2), attribute="net")
    with pytest.raises(ValueError, match="run's length is unknown"):
        trainer([schedule], max_epochs=-1).fit(TinyModule(), loader())


def test_phase_changes_are_logged_for_readers_and_for_loggers(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "frostline.freezing"):
        schedule = fit(phases(until={"steps": 6}), logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=2)
    assert "Phase 2 of 3, `middle`, at step 6: 6 steps have passed." in caplog.text
    assert "conv2     185" in caplog.text
    with Path(tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["freezing/phase"]]
    assert [(row["step"], row["freezing/phase"], row["freezing/frost_line"]) for row in rows] == [
        ("0", "0", "4"),
        ("6", "1", "2"),
        ("12", "2", "0"),
    ]
    assert [row["freezing/trainable_parameters"] for row in rows] == ["18", "203", "333"]
    assert [row["freezing/frozen_parameters"] for row in rows] == ["315", "130", "0"]
    assert [row["freezing/lr/conv2"] for row in rows] == ["0.0", "0.1", "0.1"]
    assert [row["freezing/trainable/conv2"] for row in rows] == ["0", "185", "185"]
    assert schedule.history[1]["lr/head"] == 0.1
    assert schedule.history[1]["reason"] == "6 steps have passed"


def test_the_whole_module_is_the_network_by_default():
    schedule = fit(FreezePolicy.static("net.head"), attribute=None)
    assert schedule.phase.trainable == {"net.head.weight", "net.head.bias"}


def test_a_missing_attribute_is_asked_for():
    with pytest.raises(ValueError, match=r"`head` matches no parameter.*give FreezingSchedule attribute='net'"):
        fit(FreezePolicy.static("head"), attribute=None)
    with pytest.raises(ValueError, match=r"TinyModule has no attribute `nett`. Did you mean `net`"):
        fit(FreezePolicy.static("head"), attribute="nett")
    with pytest.raises(ValueError, match="is no module"):
        fit(FreezePolicy.static("head"), attribute="make_optimizer")


class Deferred(TinyModule):
    """Makes its network in `configure_model`, as very large ones are."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def configure_model(self) -> None:
        if isinstance(self.net, nn.Identity):
            self.net = seeded_net()


def test_a_network_made_in_configure_model():
    schedule = fit(phases(until={"epochs": 1}), module=Deferred())
    assert starts(schedule) == [("head", 0, 0), ("middle", 4, 1), ("all", 8, 2)]
    assert schedule.verdict()["held"]


def test_an_optimizer_that_lacks_what_will_train_is_refused():
    module = TinyModule()
    module.configure_optimizers = lambda: torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(ValueError, match=r"The optimizer lacks `conv1.weight` and 7 more.*without a filter"):
        fit(phases(until={"steps": 2}), module=module)


def test_manual_optimization_is_refused():
    module = TinyModule()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="needs automatic optimization"):
        fit(FreezePolicy.static("head"), module=module)


@pytest.mark.parametrize(
    ("strategy", "phase_count", "message"),
    [
        (DDPStrategy(static_graph=True), 2, "static_graph=True assumes"),
        (DDPStrategy(static_graph=True), 1, None),
        (DDPStrategy(), 2, None),
        (DDPStrategy(find_unused_parameters=True), 2, None),
        (FSDPStrategy.__new__(FSDPStrategy), 1, "FSDP1.*flattens"),
        (DeepSpeedStrategy.__new__(DeepSpeedStrategy), 1, "does not run under DeepSpeed"),
    ],
    ids=["static graph", "static graph, one phase", "ddp", "unused", "fsdp1", "deepspeed"],
)
def test_strategies_that_would_break_the_promise_are_refused_with_the_reason(strategy, phase_count, message):
    class Trainer:
        pass

    ours: Any = Trainer()
    ours.strategy = strategy
    if message is None:
        check_strategy(ours, phases=phase_count)
    else:
        with pytest.raises(ValueError, match=message):
            check_strategy(ours, phases=phase_count)


def checkpoint(folder: Path, policy: FreezePolicy) -> Path:
    saver = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=5, auto_insert_metric_name=False)
    fit(policy, callbacks=[saver], enable_checkpointing=True, max_steps=5, max_epochs=-1)
    return folder / "5.ckpt"


def resume(path: Path, policy: FreezePolicy, **settings: Any) -> Any:
    schedule = FreezingSchedule(policy=policy, attribute="net", **settings)
    ours = trainer([schedule], max_epochs=4)
    ours.fit(TinyModule(), loader(), loader(2), ckpt_path=path, weights_only=True)
    return schedule, ours


OLD = FreezePolicy.from_dict(
    {"phases": [{"name": "a", "train": ["head"], "until": {"steps": 2}}, {"name": "b", "train": ["all"]}]}
)


def test_a_resume_under_a_changed_policy_is_refused(tmp_path):
    path = checkpoint(tmp_path, OLD)
    changed = FreezePolicy.from_dict(
        {"phases": [{"name": "a", "train": ["head"], "until": {"steps": 3}}, {"name": "c", "train": ["all"]}]}
    )
    with pytest.raises(ValueError, match=r"another policy \(its phases: a, b; now: a, c\).*on_mismatch='restart'"):
        resume(path, changed)
    schedule, _ = resume(path, OLD)
    assert starts(schedule) == [("a", 0, 0), ("b", 2, 0)]


def test_a_changed_policy_restarts_when_asked_for_by_name(tmp_path):
    path = checkpoint(tmp_path, OLD)
    changed = FreezePolicy.from_dict(
        {"phases": [{"name": "x", "train": ["head"], "until": {"steps": 3}}, {"name": "y", "train": ["conv1"]}]}
    )
    schedule, ours = resume(path, changed, on_mismatch="restart")
    assert starts(schedule) == [("x", 5, 1), ("y", 8, 2)]
    assert ours.global_step == 16


def test_fractions_of_a_restart_are_of_what_is_left(tmp_path):
    path = checkpoint(tmp_path, OLD)
    half = phases(until={"fraction": 0.5}, count=2)
    schedule, _ = resume(path, half, on_mismatch="restart")
    assert starts(schedule) == [("middle", 5, 1), ("all", 11, 2)]  # 5 + half of 11, rounded to even


def test_a_restart_that_never_reaches_its_last_phase_says_so(tmp_path):
    path = checkpoint(tmp_path, OLD)
    with pytest.warns(UserWarning, match=r"phase `all` would begin after 17 steps, but the run has 16"):
        resume(path, phases(until={"steps": 12}, count=2), on_mismatch="restart")


def test_a_restart_with_nothing_left_to_train_is_refused(tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, filename="end", every_n_train_steps=16)
    fit(OLD, callbacks=[saver], enable_checkpointing=True)
    with pytest.raises(ValueError, match=r"Nothing is left to train .* is of step 16, and the run has 16"):
        resume(tmp_path / "end.ckpt", phases(until={"steps": 2}), on_mismatch="restart")


class Told(TinyModule):
    """Validates to what a function of the optimizer step says."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value, self.validated = value, []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(float(self.value(self.trainer.global_step))))

    def on_validation_end(self) -> None:
        self.validated.append(self.trainer.global_step)


WAITING = phases(until={"metric": "val/loss", "mode": "min", "patience": 2, "max_epochs": 8}, count=2)


def test_a_metric_that_is_never_a_number_ends_its_phase():
    schedule = fit(WAITING, module=Told(lambda step: float("nan")), max_epochs=9, num_sanity_val_steps=0)
    assert starts(schedule) == [("middle", 0, 0), ("all", 8, 2)]
    assert schedule.history[1]["reason"] == "val/loss has been no number in 2 evaluations"


@pytest.mark.parametrize("first", [True, False], ids=["stopping first", "schedule first"])
@pytest.mark.parametrize("in_epoch_end", [True, False])
@pytest.mark.parametrize(
    "until", [WAITING.phases[0].until, {"epochs": 3}, {"steps": 12}], ids=["metric", "epochs", "steps"]
)
def test_early_stopping_begins_to_count_at_a_phase_change(first, in_epoch_end, until):
    """The value never changes: patience 2 runs out in the third epoch, where the phase ends, and again in its third."""
    policy = WAITING if until is WAITING.phases[0].until else phases(until=until, count=2)
    stopping = EarlyStopping("val/loss", patience=2, check_on_train_epoch_end=in_epoch_end)
    schedule = FreezingSchedule(policy=policy, attribute="net")
    ours = trainer([stopping, schedule] if first else [schedule, stopping], max_epochs=9, num_sanity_val_steps=0)
    ours.fit(Told(lambda step: 1.0), loader(), loader(2))
    assert starts(schedule) == [("middle", 0, 0), ("all", 12, 3)]
    assert (ours.global_step, ours.current_epoch) == (24, 6)


def test_early_stopping_inside_a_phase_still_stops():
    schedule = FreezingSchedule(policy=phases(until={"epochs": 5}, count=2), attribute="net")
    ours = trainer([schedule, EarlyStopping("val/loss", patience=2)], max_epochs=9, num_sanity_val_steps=0)
    ours.fit(Told(lambda step: 1.0), loader(), loader(2))
    assert (ours.global_step, starts(schedule)) == (12, [("middle", 0, 0)])


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, (1, 4, 8, 11)),
        ({"val_check_interval": 2}, (2, 4)),
        ({"check_val_every_n_epoch": 2}, (4, 8)),
        ({"accumulate_grad_batches": 2}, (2, 4)),
    ],
    ids=["epochs", "within epochs", "every second", "accumulation"],
)
def test_a_resume_in_anybodys_module_loses_no_evaluation(tmp_path, options, steps):
    """Without `ExactResume`, from checkpoints of the batch before the validation, and of others."""
    policy = phases(until={"metric": "val/loss", "mode": "min", "patience": 1, "max_epochs": 4}, count=2)
    settings = {"max_epochs": 5, "num_sanity_val_steps": 0, **options}
    saver = ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
    )
    whole = Told(lambda step: step)
    expected = starts(fit(policy, module=whole, callbacks=[saver], enable_checkpointing=True, **settings))
    assert len(expected) == 2
    for step in steps:
        module, schedule = Told(lambda step: step), FreezingSchedule(policy=policy, attribute="net")
        again = trainer([schedule], **settings)
        again.fit(module, loader(), loader(2), ckpt_path=tmp_path / f"{step}.ckpt", weights_only=True)
        assert starts(schedule) == expected, step
        assert module.validated == [at for at in whole.validated if at >= step], step
        assert (again.global_step, again.current_epoch) == (whole.trainer.global_step, 5), step


def test_a_checkpoint_written_without_the_schedule_is_refused_too(tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, filename="plain", every_n_train_steps=2)
    trainer([saver], max_epochs=1, enable_checkpointing=True).fit(TinyModule(), loader(2))
    with pytest.raises(ValueError, match="it was written without FreezingSchedule"):
        resume(tmp_path / "plain.ckpt", OLD)


def test_a_checkpoint_whose_frozen_tensors_were_tampered_with_is_refused(tmp_path):
    path = checkpoint(tmp_path, FreezePolicy.static("head"))
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.conv1.weight"][0] += 1
    torch.save(content, path)
    with pytest.raises(RuntimeError, match=r"changed since phase `static` began \(resume, step 5\): conv1.weight"):
        resume(path, FreezePolicy.static("head"))


def test_a_checkpoint_tested_under_another_policy_is_nobodys_business(tmp_path):
    path = checkpoint(tmp_path, OLD)
    schedule = FreezingSchedule(policy=FreezePolicy.static("conv1"), attribute="net")
    module = TinyModule()
    trainer([schedule]).test(module, loader(2), ckpt_path=path, weights_only=True, verbose=False)
    assert all(entry.requires_grad for entry in module.parameters())


def test_a_second_fit_of_the_same_trainer_goes_on_in_its_phase():
    schedule = FreezingSchedule(policy=phases(until={"steps": 6}), attribute="net")
    ours, module = trainer([schedule], max_epochs=2), TinyModule()
    with pytest.warns(UserWarning, match="never begins"):
        ours.fit(module, loader())
    ours.fit_loop.max_epochs = 4
    ours.fit(module, loader())
    assert starts(schedule) == [("head", 0, 0), ("middle", 6, 1), ("all", 12, 3)]


def test_lightnings_warning_of_eval_mode_is_kept_for_modules_that_are_not_ours():
    class Other(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.BatchNorm1d(2).eval()

    with pytest.warns(UserWarning, match="in eval mode at the start of training"):
        fit(FreezePolicy.static("head"), module=Other())


def test_parameters_without_gradient_are_named_and_can_be_allowed():
    class Spare(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(2, 2)

    with pytest.raises(
        RuntimeError, match=r"Phase `static`: spare.weight, spare.bias: in training, but without a gradient"
    ):
        fit(FreezePolicy.static("all"), module=TinyModule(Spare()))
    schedule = FreezingSchedule(policy=FreezePolicy.static("all"), attribute="net", allow_unused=["spare"])
    trainer([schedule], max_epochs=1).fit(TinyModule(Spare()), loader())
    fit(FreezePolicy.static("all", "!spare"), module=TinyModule(Spare()))


def test_a_cut_path_is_named():
    class Cut(TinyModule):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = torch.relu(self.net.bn1(self.net.conv1(images)))
            features = torch.relu(self.net.bn2(self.net.conv2(features.detach())))
            return self.net.head(features.mean((2, 3)))

    with pytest.raises(RuntimeError, match=r"conv1.weight, conv1.bias, bn1.weight, bn1.bias: in training, but without"):
        fit(FreezePolicy.static("all"), module=Cut())


class Writes(pl.Callback):
    """Negates some frozen weights in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.write)

    def write(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        with torch.no_grad():
            pl_module.net.conv1.weight.view(-1)[1::2].neg_()


class WritesItself(TinyModule):
    """Does so in a hook of its own."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        setattr(self, hook, lambda *_, **__: Writes.write(None, None, self))


HOOKS = ["on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end",
         "on_validation_end", "on_train_epoch_end", "on_train_end", "on_fit_end"]  # fmt: skip


PLACES = [(hook, where) for hook in [*HOOKS, "teardown"] for where in ("before", "after", "module")]


# Nothing is called after a module's teardown.
@pytest.mark.parametrize(("hook", "where"), [place for place in PLACES if place != ("teardown", "module")])
def test_a_write_in_any_hook_is_noticed(hook, where):
    schedule = FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")
    writes = Writes(hook)
    callbacks = {"before": [writes, schedule], "after": [schedule, writes], "module": [schedule]}[where]
    module = WritesItself(hook) if where == "module" else TinyModule()
    # An odd number of writes: two would undo each other.
    ours = trainer(callbacks, max_epochs=1, limit_train_batches=1, limit_val_batches=1, num_sanity_val_steps=0)
    with pytest.raises(FrozenTensorChanged, match=r"conv1\.weight"):
        ours.fit(module, loader(1), loader(1))
    verdict = schedule.verdict()
    assert not verdict["held"]
    assert verdict["audits"][-1]["moved"] == ["conv1.weight"]


@pytest.mark.parametrize("place", [0, 1])
def test_weights_loaded_in_setup_are_what_is_frozen(place):
    schedule = FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")
    callbacks = [schedule]
    callbacks.insert(place, Writes("setup"))
    trainer(callbacks, max_epochs=1).fit(TinyModule(), loader(1))
    assert schedule.verdict()["held"]


def test_a_write_before_the_run_fails_is_in_the_verdict(caplog):
    class Fails(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            raise ArithmeticError

    schedule = FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")
    ours = trainer([Writes("on_train_batch_end"), schedule, Fails()], max_epochs=1)
    with caplog.at_level(logging.ERROR), pytest.raises(ArithmeticError):
        ours.fit(TinyModule(), loader(1))
    assert schedule.verdict()["audits"][-1]["moved"] == ["conv1.weight"]
    assert "conv1.weight" in caplog.text


def test_a_second_fit_has_one_audit_of_the_whole_run():
    schedule = FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")
    ours = trainer([schedule, Writes("unused")], max_epochs=1)
    module = TinyModule()
    ours.fit(module, loader(1))
    ours.fit_loop.max_epochs = 2
    ours.fit(module, loader(1))
    assert len(ours.callbacks) == 3
    assert [entry["reason"] for entry in schedule.verdict()["audits"]] == ["end of fit", "resume", "end of fit"]


class GoesPast(TinyModule):
    """Puts frozen modules into training mode inside its steps, in every way that there is."""

    def __init__(self, way: Any, step: str) -> None:
        super().__init__()
        self.way, self.at = way, step

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.at == "parts":  # past the network's own forward
            self.way(self.net)
            features = torch.relu(self.net.bn1(self.net.conv1(images)))
            return self.net.head(torch.relu(self.net.bn2(self.net.conv2(features))).mean((2, 3)))
        return super().forward(images)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.way(self.net)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.way(self.net)
        super().validation_step(batch, batch_idx)


def sets_the_flag(net: Any) -> None:
    net.bn1.training = True


WAYS = [lambda net: net.bn1.train(), lambda net: net.apply(lambda module: module.train()), sets_the_flag,
        lambda net: nn.BatchNorm2d.train(net.bn1)]  # fmt: skip


@pytest.mark.parametrize("step", ["whole", "parts"])
@pytest.mark.parametrize("way", WAYS, ids=["train", "apply", "flag", "class"])
def test_frozen_statistics_stay_whatever_a_step_does_to_modes(way, step):
    module = GoesPast(way, step)
    before = {name: value.clone() for name, value in module.net.state_dict().items()}
    schedule = fit(FreezePolicy.static("head"), module=module, max_epochs=1)
    assert schedule.verdict()["held"]
    moved = {name for name, value in module.net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own compiler
def test_frozen_statistics_of_a_compiled_network_stay_when_a_step_calls_train():
    module = GoesPast(WAYS[1], "whole")
    before = module.net.bn1.running_mean.clone()
    module.net.compile(backend="aot_eager")
    assert fit(FreezePolicy.static("head"), module=module, max_epochs=1).verdict()["held"]
    assert torch.equal(module.net.bn1.running_mean, before)
