"""A composed config against the schema."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frostline.commands.help import default_config
from frostline.config.commands import COMMANDS
from frostline.config.section import Section
from frostline.config.validation import (
    ConfigError,
    path_problems,
    stored_problems,
    unknown_choice,
    unknown_key,
    validate,
)

TRAIN = COMMANDS["train"]


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return default_config("train", ("freeze=none", "optimizer.lr=0.05", "trainer.max_epochs=4", "data.batch_size=32"))


def changed(config: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The config with other values; `optimizer__lr` is `optimizer.lr`."""
    config = {**config}
    for path, value in values.items():
        section, _, key = path.rpartition("__")
        if section:
            config[section] = {**config[section], key: value}
        else:
            config[key] = value
    return config


def problems(config: dict[str, Any], **values: Any) -> list[str]:
    try:
        validate(TRAIN, changed(config, **values), defaults=config)
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("optimizer__lr", "0.1", "optimizer.lr: must be float > 0 or auto, not `0.1`"),
        ("optimizer__lr", 0.0, "optimizer.lr: must be float > 0 or auto, not `0.0`"),
        ("optimizer__lr", float("inf"), "optimizer.lr: must be a finite float > 0 or auto, not `inf`"),
        ("optimizer__lr", float("nan"), "optimizer.lr: must be a finite float > 0 or auto, not `nan`"),
        ("optimizer__lr", True, "optimizer.lr: must be float > 0 or auto, not `true`"),
        ("optimizer__nesterov", 1, "optimizer.nesterov: must be true or false, not `1`"),
        ("trainer__max_epochs", 1.5, "trainer.max_epochs: must be integer ≥ 1 or auto, not `1.5`"),
        ("trainer__max_epochs", None, "trainer.max_epochs: must be integer ≥ 1 or auto, not `null`"),
        ("trainer__max_steps", -1, "trainer.max_steps: must be integer ≥ 1 or null, not `-1`"),
        ("trainer__precision", "16", "trainer.precision: must be one of auto, 32-true, bf16-mixed, 16-mixed, not `16`"),
        ("seed", -1, "seed: must be integer ≥ 0 and < 4294967296, not `-1`"),
        ("output_dir", "", "output_dir: must be path, not ``"),
        ("data__mean", [0.5], "data.mean: must be list of 3 values, each float or null, not `[0.5]`"),
        ("data__std", [1.0, 0.0, 1.0], "data.std: "),
        (
            "optimizer__exclude_from_decay",
            ["bia"],
            "optimizer.exclude_from_decay[0]: must be one of bias, norm, not `bia`",
        ),
        ("freeze__train", [], "freeze.train: must be list of text, not `[]`"),
        ("freeze__lr", {"head": 0}, "freeze.lr.head: must be float > 0, not `0`"),
    ],
)
def test_types_and_ranges(composed: dict[str, Any], key: str, value: Any, problem: str) -> None:
    [found] = problems(composed, **{key: value})
    assert found.startswith(problem)


def numbers(node: Any, path: str = "") -> Iterator[str]:
    """Paths of the numbers in a config; of each list, the first item's."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from numbers(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        yield from (f"{path}[{index}]" for index, item in enumerate(node[:1]) if isinstance(item, float))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_no_number_may_be_infinite_or_nan(composed: dict[str, Any], value: float) -> None:
    paths = [path for path in numbers(composed) if not path.startswith("hydra")]
    assert {"optimizer.lr", "data.image_size", "scheduler.warmup", "cache.limit_gb", "seed"} <= set(paths)
    for path in paths:
        config = copy.deepcopy(composed)
        *parents, last = path.removesuffix("[0]").split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = [value, *node[last][1:]] if path.endswith("[0]") else value
        assert [problem for problem in problems(config) if problem.startswith(f"{path}: must be ")], path


def test_no_section_allows_infinity() -> None:
    def below(section: type[Section]) -> Iterator[type[Section]]:
        yield section
        for child in section.__subclasses__():
            yield from below(child)

    assert [section for section in below(Section) if section.model_config.get("allow_inf_nan") is not False] == []


def test_an_infinite_factor_is_named_with_its_stage(composed: dict[str, Any]) -> None:
    freeze = {**composed["freeze"], "lr": {"layer4": float("inf"), "head": 1.0}}
    [problem] = problems({**composed, "freeze": freeze})
    assert problem.startswith("freeze.lr.layer4: must be a finite float > 0, not `inf` (learning-rate factor by stage")


def test_an_integer_is_a_float(composed: dict[str, Any]) -> None:
    assert problems(composed, optimizer__lr=1) == []


def test_a_message_carries_the_keys_help_text(composed: dict[str, Any]) -> None:
    assert problems(composed, data__batch_size=0) == [
        "data.batch_size: must be integer ≥ 1 or auto, not `0` (images in one batch over all devices together; auto: "
        "32, or fewer where there are few images)."
    ]


def test_a_group_that_is_no_mapping_is_named(composed: dict[str, Any]) -> None:
    assert problems(composed, optimizer="adam") == [
        "optimizer: takes the name of an option, or keys as optimizer.KEY=VALUE, not `adam`."
    ]


def test_an_unknown_name_lists_the_choices(composed: dict[str, Any]) -> None:
    [problem] = problems(composed, scheduler__name="cosin")
    assert problem.startswith("scheduler.name=cosin: unknown option. Did you mean scheduler.name=cosine?")


def test_rules_are_not_asked_about_malformed_sections(composed: dict[str, Any]) -> None:
    """A rule that computes with a text would fail."""
    [problem] = problems(composed, data__batch_size="many", device__devices=3)
    assert problem.startswith("data.batch_size: must be integer")


def test_fractions_that_leave_nothing_to_train_on(composed: dict[str, Any]) -> None:
    [problem] = problems(composed, data__val_fraction=0.5, data__test_fraction=0.5)
    assert problem.startswith("data: val_fraction 0.5 and test_fraction 0.5 leave nothing to train on")


def test_unknown_key_lists_the_keys_beside_it_where_none_is_near() -> None:
    assert unknown_key("a.xyz", ["a.one", "a.two", "b.three"]) == "a.xyz: unknown key. The keys of a are: one, two."


def test_unknown_choice_without_a_near_one_lists_all() -> None:
    assert unknown_choice("a", "xyz", ["one", "two"]) == "a=xyz: unknown option. The choices are: one, two."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": 3}, ["data: takes the name of an option"]),
        ({"data": {"name": "digits", "batch_size": "x", "loader_timeout": None}}, ["data.batch_size", "data.loader"]),
        ({"freeze": 3}, ["freeze: takes the name"]),
        ({"seed": "x"}, ["seed: must be"]),
        # Of another version: keys that it lacked, and keys that are gone.
        ({"data": {"name": "digits", "gone": 1}, "seed": 3, "other": 1}, []),
    ],
)
def test_a_stored_config_is_checked_for_types_and_not_for_versions(
    settings: dict[str, Any], message: list[str]
) -> None:
    problems = stored_problems(settings)
    assert len(problems) == len(message)
    assert all(problem.startswith(start) for problem, start in zip(problems, message, strict=True))


def test_an_output_that_ends_in_a_slash_is_no_file(tmp_path: Path) -> None:
    fields, given, typed = (
        COMMANDS["predict"].model_fields,
        {"output": f"{tmp_path}/new"},
        {"output": f"{tmp_path}/new/"},
    )
    assert list(path_problems(fields, given, typed=typed)) == [
        f"output: `{tmp_path}/new/` names a folder; name a file in it."
    ]
