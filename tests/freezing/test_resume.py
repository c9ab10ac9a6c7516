"""Resuming under the same policy, under another one, and from a checkpoint that was changed."""

from pathlib import Path

import pytest
import torch
from freezing.tiny import TinyModule, Validates, fit, loader, metric, phases, starts, trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from frostline.freezing import FreezePolicy, FreezingSchedule

pytestmark = [
    # All that matters here is which phase is resumed.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # The callback that wrote the checkpoint is not wanted where it is read.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create.*"),
]


def two(first: int, last: str = "all", names: str = "ab") -> FreezePolicy:
    """The head for some steps, then another part."""
    phases = [{"name": names[0], "train": ["head"], "until": {"steps": first}}, {"name": names[1], "train": [last]}]
    return FreezePolicy.from_dict({"phases": phases})


OLD = two(2)


def saved(folder: Path, policy: FreezePolicy = OLD, *, steps: int = 5) -> Path:
    saver = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=steps, auto_insert_metric_name=False)
    fit(policy, callbacks=[saver], enable_checkpointing=True, max_steps=steps, max_epochs=-1)
    return folder / f"{steps}.ckpt"


RESTART = {"on_mismatch": "restart"}


def test_a_resume_under_the_same_policy_continues(tmp_path):
    assert starts(fit(OLD, resume=saved(tmp_path))) == [("a", 0, 0), ("b", 2, 0)]


def test_a_resume_under_a_changed_policy_is_refused(tmp_path):
    message = r"another policy \(its phases: a, b; now: a, c\).*on_mismatch='restart'"
    path = saved(tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(two(3, names="ac"), resume=path)


def test_a_changed_policy_restarts_on_request(tmp_path):
    module = TinyModule()
    schedule = fit(two(3, "conv1", names="xy"), resume=saved(tmp_path), options=RESTART, module=module)
    assert starts(schedule) == [("x", 5, 1), ("y", 8, 2)]
    assert module.trainer.global_step == 16


def test_fractions_of_a_restart_are_of_the_rest_of_the_run(tmp_path):
    schedule = fit(phases(until={"fraction": 0.5}, count=2), resume=saved(tmp_path), options=RESTART)
    assert starts(schedule) == [("middle", 5, 1), ("all", 11, 2)]  # 5 + half of 11, rounded to even


def test_a_restart_that_never_reaches_its_last_phase_warns(tmp_path):
    path = saved(tmp_path)
    with pytest.warns(UserWarning, match=r"phase `all` would begin after 17 steps, but the run has 16"):
        fit(phases(until={"steps": 12}, count=2), resume=path, options=RESTART)


def test_a_restart_with_nothing_left_to_train_is_refused(tmp_path):
    path = saved(tmp_path, steps=16)
    with pytest.raises(ValueError, match=r"Nothing is left to train .* is of step 16, and the run has 16"):
        fit(phases(until={"steps": 2}), resume=path, options=RESTART)


def test_a_checkpoint_written_without_the_schedule_is_refused(tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, filename="plain", every_n_train_steps=2)
    trainer([saver], max_epochs=1, enable_checkpointing=True).fit(TinyModule(), loader(2))
    with pytest.raises(ValueError, match="it was written without FreezingSchedule"):
        fit(OLD, resume=tmp_path / "plain.ckpt")


def test_a_checkpoint_with_a_changed_frozen_tensor_is_refused(tmp_path):
    path = saved(tmp_path, FreezePolicy.static("head"))
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.conv1.weight"][0] += 1
    torch.save(content, path)
    with pytest.raises(RuntimeError, match=r"changed since phase `static` began \(resume, step 5\): conv1.weight"):
        fit(FreezePolicy.static("head"), resume=path)


@pytest.mark.parametrize("shape", [(7,), (4, 3, 3), (4, 3, 3, 4)], ids=str)
def test_a_checkpoint_with_a_moment_of_another_shape_is_refused(tmp_path, shape):
    """torch would write past the parameter's end."""
    path = saved(tmp_path)
    content = torch.load(path, weights_only=True)
    content["optimizer_states"][0]["state"][0]["momentum_buffer"] = torch.zeros(shape)
    torch.save(content, path)
    with pytest.raises(
        ValueError, match=r"a `momentum_buffer` of shape .* for parameter 0, which has shape \(4, 3, 3, 3"
    ):
        fit(OLD, resume=path)


def test_a_test_of_a_checkpoint_of_another_policy_sets_no_flags(tmp_path):
    schedule = FreezingSchedule(policy=FreezePolicy.static("conv1"), attribute="net")
    module = TinyModule()
    trainer([schedule]).test(module, loader(2), ckpt_path=saved(tmp_path), weights_only=True, verbose=False)
    assert all(entry.requires_grad for entry in module.parameters())


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
def test_a_resume_in_a_plain_module_loses_no_evaluation(tmp_path, options, steps):
    """Without `ExactResume`, from checkpoints of the batch before the validation, and of others."""
    policy = phases(until=metric(patience=1, max_epochs=4), count=2)
    settings = {"max_epochs": 5, "num_sanity_val_steps": 0, **options}
    saver = ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
    )
    whole = Validates(lambda step: step)
    expected = starts(fit(policy, module=whole, callbacks=[saver], enable_checkpointing=True, **settings))
    assert len(expected) == 2
    for step in steps:
        module = Validates(lambda step: step)
        assert starts(fit(policy, module=module, resume=tmp_path / f"{step}.ckpt", **settings)) == expected, step
        assert module.validated == [at for at in whole.validated if at >= step], step
        assert (module.trainer.global_step, module.trainer.current_epoch) == (whole.trainer.global_step, 5), step
