"""A checkpoint meets another config: each key is free, applied or refused, and every key has its class."""

from types import SimpleNamespace
from typing import Any

import pytest
from tests.configs import settings, typed

from frostline.commands.resuming import applied, changes, problems, restored, treatment, with_interpolation
from frostline.config.commands import TrainConfig
from frostline.config.groups import RUN_GROUPS
from frostline.config.key_text import fields_of
from frostline.freezing.policy import FreezePolicy


def keys() -> list[str]:
    """Every key of a training, one level into its groups."""
    found = list(TrainConfig.top_keys())
    for name, group in RUN_GROUPS.items():
        found += sorted({f"{name}.{field}" for section in group.sections for field in fields_of(section)})
    return found


def test_every_key_says_what_becomes_of_it_on_a_resume() -> None:
    assert [key for key in keys() if treatment(key) is None] == []
    assert treatment("trainer.some_new_key") is None


def config(**changed: Any) -> TrainConfig:
    words = ("freeze=none", "optimizer.lr=0.1", "trainer.max_epochs=4", "data.batch_size=8", "data.workers=0")
    values = settings(*words, "model.weights=none")
    for key, value in changed.items():
        group, _, name = key.partition("__")
        values[group] = {**values[group], name: value} if name else value
    chosen: TrainConfig = typed(values)
    return chosen.model_copy(update={"resume_from": "a.ckpt"})


def checkpoint_of(chosen: TrainConfig, *, step: int = 5) -> dict[str, Any]:
    policy = FreezePolicy.from_dict({k: v for k, v in chosen.freeze.as_dict().items() if k != "name"}).to_dict()
    kept = {"batches_per_epoch": 5, "accumulate_grad_batches": 2}
    described = {"settings": chosen.as_dict(), "policy": policy}
    timer = {"TimeLimit": {"time_elapsed": {"train": 90.0}}}
    return {"frostline": described, "global_step": step, "frostline_resume": kept, "callbacks": timer}


def met(typed: set[str], *, step: int = 5, **changed: Any) -> list[str]:
    return problems(checkpoint_of(config(), step=step), config(**changed), typed=typed)


def test_the_same_config_goes_on() -> None:
    assert met(set()) == []


def test_what_is_about_the_machine_may_change() -> None:
    assert met(set(), cache__folder="/b", data__workers=2, model__weights="imagenet", trainer__max_epochs=9) == []


@pytest.mark.parametrize("typed", ["optimizer.lr", "optimizer", "experiment"])
def test_a_typed_rate_is_applied(typed: str) -> None:
    assert met({typed}, optimizer__lr=0.01) == []
    assert list(map(str, applied(config().as_dict(), config(optimizer__lr=0.01).as_dict()))) == [
        "optimizer.lr: 0.1 in the checkpoint, 0.01 now"
    ]


def test_a_rate_that_is_only_the_default_is_asked_about() -> None:
    assert met(set(), optimizer__lr=0.01) == [
        "optimizer.lr: 0.1 in the checkpoint, 0.01 now. To go on as before, type optimizer.lr=0.1; or "
        "optimizer.lr=0.01 to go on with that."
    ]


@pytest.mark.parametrize(
    ("key", "value", "back"),
    [
        ("seed", 1, "leave seed out"),
        ("data__batch_size", 4, "leave data.batch_size out"),
        ("data", settings("data=synthetic")["data"], "leave data out"),
        ("optimizer", settings("optimizer=adamw")["optimizer"], "leave optimizer out"),
        ("optimizer__exclude_from_decay", ["bias"], "leave optimizer.exclude_from_decay out"),
        ("model__name", "resnet34", "leave model.name out"),
        ("head__dropout", 0.5, "leave head.dropout out"),
        ("head", {"name": "mlp", "hidden": [4]}, "leave head out"),
        ("head", {"_target_": "my.Head", "size": 3}, "leave head out"),
    ],
)
def test_what_the_weights_belong_to_is_refused_with_both_values(key: str, value: Any, back: str) -> None:
    problem = met({key.replace("__", ".")}, **{key: value})[0]
    assert back in problem
    assert "or start a new run from its weights: init_from=a.ckpt in place of resume_from" in problem


def test_what_a_typed_option_leaves_at_its_default_is_refused_with_the_value_to_type() -> None:
    assert "To go on as before, type data.batch_size=8;" in met({"data"}, data__batch_size=4)[0]
    assert "To go on as before, type data=digits;" in met(set(), data=settings("data=synthetic")["data"])[0]


def test_every_key_of_a_class_of_the_users_own_is_part_of_it() -> None:
    before, now = (
        {"head": {"_target_": "my.Head", "size": 3}},
        {"head": {"_target_": "my.Head", "size": 3, "deep": True}},
    )
    assert [change.key for change in changes(before, now)] == ["head.deep"]


def test_a_key_that_an_older_frostline_lacked_is_no_change() -> None:
    assert (
        list(changes({"trainer": {"max_epochs": 1}}, {"trainer": {"max_epochs": 1, "new": 3}, "other": {"a": 1}})) == []
    )


def test_a_run_cannot_be_made_shorter_than_it_is() -> None:
    assert met(set(), step=12, trainer__max_epochs=4) == []
    assert met(set(), step=15, trainer__max_epochs=4) == [
        "trainer.max_epochs: 4, but a.ckpt has done 5 epochs. Type a larger number."
    ]
    assert met(set(), step=12, trainer__max_steps=11) == [
        "trainer.max_steps: 11, but a.ckpt is from step 12. Type a larger number."
    ]
    assert met(set(), trainer__max_time="00:00:01:31") == []
    assert met(set(), trainer__max_time="00:00:01:30") == [
        "trainer.max_time: 00:00:01:30, but a.ckpt has trained for 90 seconds. Type a longer time, or null."
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "backbone", "train": ["head"]}, "freeze=none"),
        ({"name": "backbone", "train": ["head"], "batch_norm": "train"}, "freeze=none freeze.batch_norm=frozen"),
        ({"batch_norm": "train"}, "freeze.batch_norm=frozen"),
        ({"name": "custom"}, None),
    ],
)
def test_another_policy_is_refused_before_the_run_with_what_to_type(change: dict[str, Any], words: str | None) -> None:
    checkpoint = checkpoint_of(config())
    now = config(**{f"freeze__{key}": value for key, value in change.items()})
    message = problems(checkpoint, now, typed=set())
    assert len(message) == (words is not None)
    assert words is None or message[0].startswith(
        f"freeze: another policy than in the checkpoint. To go on as before, type {words}; to begin"
    )
    assert problems(checkpoint, now.model_copy(update={"on_policy_change": "restart"}), typed=set()) == []


@pytest.mark.parametrize("error", [KeyError("lr_lambdas"), TypeError("int"), AttributeError("pop"), IndexError("99")])
def test_a_state_that_cannot_be_taken_up_is_reported_with_its_file(error: Exception) -> None:
    loaded: dict[str, Any] = {"epoch": 1}
    trainer = SimpleNamespace(_checkpoint_connector=SimpleNamespace(_loaded_checkpoint=loaded))
    message = r"^a\.ckpt: a run cannot go on from its state.*init_from=a\.ckpt$"
    with pytest.raises(ValueError, match=message), restored(trainer, "a.ckpt"):
        raise error
    loaded.clear()  # as Lightning does when all is restored: what comes later is no fault of the file
    with pytest.raises(type(error)), restored(trainer, "a.ckpt"):
        raise error


def test_a_run_that_goes_on_keeps_the_interpolation_of_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a checkpoint of an earlier version was bilinear, whatever the network was trained with."""
    images: dict[str, Any] = {}
    monkeypatch.setattr(
        "frostline.commands.resuming.read_description", lambda *_, **__: {"frostline": {"images": images}}
    )
    data = config().data
    assert with_interpolation(data, None).interpolation is None
    assert with_interpolation(data, "a.ckpt").interpolation == "bilinear"
    images["interpolation"] = "bicubic"
    assert with_interpolation(data, "a.ckpt").interpolation == "bicubic"
