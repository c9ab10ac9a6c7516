"""The policy as data: what it can express, what is refused, and that it survives writing and reading."""

import pytest
import yaml

from frostline.freezing import FreezePolicy, Phase, Until, read_policy, write_policy

FULL = {
    "batch_norm": "affine",
    "dropout": "active",
    "phases": [
        {
            "name": "head",
            "train": ["head"],
            "until": {"metric": "val/loss", "mode": "min", "patience": 2, "min_delta": 0.1, "max_epochs": 9},
            "lr": {},
            "lr_decay": None,
            "warmup_steps": 0,
        },
        {
            "name": "rest",
            "train": ["all", "!stem"],
            "until": None,
            "lr": {"head": 2.0},
            "lr_decay": 0.5,
            "warmup_steps": 7,
        },
    ],
}


def test_a_policy_survives_plain_values_and_a_file(tmp_path):
    policy = FreezePolicy.from_dict(FULL)
    assert policy.to_dict() == FULL
    write_policy(policy, tmp_path / "policy.yaml")
    assert read_policy(tmp_path / "policy.yaml") == policy
    assert FreezePolicy.from_dict({"path": str(tmp_path / "policy.yaml")}) == policy


def test_a_static_policy_is_one_phase():
    assert FreezePolicy.from_dict({"train": ["layer4", "head"]}) == FreezePolicy.static("layer4", "head")
    assert FreezePolicy.static("head").phases == (Phase(name="static", train=("head",)),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of epochs, steps, fraction, metric; got none"),
        ({"epochs": 1, "steps": 2}, "got epochs and steps"),
        ({"epochs": 0}, "`until.epochs` must be at least 1"),
        ({"steps": -3}, "`until.steps` must be at least 1"),
        ({"fraction": 1.0}, "`until.fraction` must be above 0 and below 1 and finite .share.*got 1.0"),
        ({"metric": "val/loss"}, "also needs `mode`.*`patience`.*`max_epochs`"),
        (
            {"metric": "val/loss", "mode": "low", "patience": 1, "max_epochs": 1},
            "`until.mode` must be one of min, max; got 'low'",
        ),
        ({"epochs": 1, "patience": 2}, "`until.patience` requires `until.metric`"),
        ({"steps": 1, "min_delta": 0.1}, "`until.min_delta` requires"),
    ],
    ids=str,
)
def test_an_until_that_cannot_be_meant_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Until(**values)


def phased(**changes):
    return {
        "phases": [{"name": "a", "train": ["head"], "until": {"epochs": 1}}, {"name": "b", "train": ["all"], **changes}]
    }


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"phases": []}, "at least one phase"),
        ({"phases": "gradual"}, "`phases` must be a list"),
        ({"phases": [{"name": "a", "train": ["head"]}, {"name": "b", "train": ["all"]}]}, "`a` has no `until`, so `b`"),
        (phased(until={"epochs": 1}), "`b` is the last and lasts until the end.*leave out its `until`"),
        (phased(name="a"), "Two phases are called `a`"),
        (phased(trian=["all"]), "has no key `trian`.*Did you mean `train`"),
        (phased(train="all"), "`train` must be a list; got 'all'"),
        (phased(train=[]), "trains nothing"),
        (phased(lr={"head": 0}), "Phase `b`: `lr.head` must be above 0 and finite .*instead of 0, freeze.*; got 0"),
        (phased(lr={"!head": 0.5}), "takes no `!`"),
        (phased(lr=[0.1]), "`lr` must be a mapping .learning-rate factor by stage"),
        (phased(lr_decay=1.5), "`lr_decay` must be above 0 and at most 1 and finite"),
        (phased(warmup_steps=-1), "`warmup_steps` must be at least 0 .*; got -1"),
        (phased(warmup_steps=1.5), "must be a whole number"),
        ({"train": ["head"], "batch_norm": "eval"}, "must be one of frozen, drift, recalibrate, affine, train"),
        ({"train": ["head"], "dropout": True}, "must be one of frozen, active"),
        ({"train": ["head"], "until": {"epochs": 1}}, "has no key `until`"),
        ({"lr": {}}, "The policy has no `train`; name what trains"),
        ({"path": "x.yaml", "train": ["head"]}, "has no key `train`"),
        (
            {
                "phases": [
                    *({"name": n, "train": ["head"], "until": {"fraction": 0.5}} for n in "ac"),
                    phased()["phases"][1],
                ]
            },
            "The phases before `b` take 1 of the run",
        ),
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_meant_is_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        FreezePolicy.from_dict(plain)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_factor_or_share_may_be_infinite_or_nan(value):
    for name, wrong in {
        r"lr\.head": lambda: Phase(name="a", train=("head",), lr={"head": value}),
        "lr_decay": lambda: Phase(name="a", train=("head",), lr_decay=value),
        r"until\.min_delta": lambda: Until(metric="m", mode="min", patience=1, max_epochs=2, min_delta=value),
        r"until\.fraction": lambda: Until(fraction=value),
    }.items():
        with pytest.raises(ValueError, match=rf"`{name}` must be .* finite .*; got (inf|nan)"):
            wrong()


def test_the_file_is_named_when_it_is_at_fault(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml"):
        read_policy(path)
    path.write_text("train: [head")
    with pytest.raises(ValueError, match=r"mine\.yaml, line 1: cannot be read"):
        read_policy(path)
    path.write_text(yaml.safe_dump({"path": "other.yaml"}))
    with pytest.raises(ValueError, match=r"mine\.yaml` holds no policy"):
        read_policy(path)
    path.write_text(yaml.safe_dump({"train": ["head"], "batch_nrom": "drift"}))
    with pytest.raises(ValueError, match=r"mine\.yaml`: .*Did you mean `batch_norm`"):
        read_policy(path)
