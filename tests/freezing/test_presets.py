"""The presets in conf/freeze: each is described by the schema, reads as a policy, and means what its name says."""

from pathlib import Path

import pytest
import torchvision
import yaml

from frostline.config.commands import COMMANDS
from frostline.config.groups import RUN_GROUPS
from frostline.config.validation import ConfigError, validate
from frostline.freezing import FreezePolicy, Phase, Until, write_policy
from frostline.freezing.keys import keys_of
from tests.configs import config, settings

FREEZE = RUN_GROUPS["freeze"].by_name
FOLDER = Path(__file__).parents[2] / "conf" / "freeze"
PRESETS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
NET = torchvision.models.resnet18(num_classes=10)
# Trainable tensors of a ResNet-18 in each phase, and where the frost line lies (whole frozen stages from the input).
MEANING = {
    "none": ([62], [0]),
    "backbone": ([2], [5]),
    "to_layer3": ([17], [4]),
    "to_layer2": ([32], [3]),
    "to_layer1": ([47], [2]),
    "stem": ([59], [1]),
    "gradual_unfreezing": ([2, 17, 32, 62], [5, 4, 3, 0]),
    "unfreeze_on_plateau": ([2, 62], [5, 0]),
    "discriminative": ([62], [0]),
    "all_but_batch_norm": ([42], [0]),
    "all_but_bias": ([22], [0]),
    "surgical": ([14], [1]),
    "custom": ([17], [4]),
}


def test_every_preset_is_here_and_in_the_schema():
    assert set(PRESETS) == set(FREEZE) == {*MEANING, "auto", "file"}
    assert all(values["name"] == name for name, values in PRESETS.items())


@pytest.mark.parametrize("name", MEANING)
def test_a_preset_means_what_its_name_says(name):
    FREEZE[name].model_validate(PRESETS[name])
    resolved = FreezePolicy.preset(name).resolve(NET)
    tensors, lines = MEANING[name]
    assert [len(phase.trainable) for phase in resolved.phases] == tensors
    assert [resolved.frost_line(phase) for phase in resolved.phases] == lines


@pytest.mark.parametrize("name", MEANING)
def test_a_preset_is_the_policy_of_the_command_line(name):
    composed = config(f"freeze={name}").freeze.as_dict()
    assert composed.pop("name") == name
    assert FreezePolicy.preset(name) == FreezePolicy.from_dict(composed)


def test_the_command_line_has_every_key_of_the_policy():
    of = {**keys_of(FreezePolicy), **keys_of(Phase)}
    static, phased = FREEZE["backbone"].model_fields, FREEZE["gradual_unfreezing"].model_fields
    phase = phased["phases"].annotation.__args__[0].model_fields
    until = phase["until"].annotation.__args__[0].model_fields
    assert set(static) == set(of) - {"phases", "until"}
    assert set(phased) == {"name", *keys_of(FreezePolicy)}
    assert (set(phase), set(until)) == (set(keys_of(Phase)), set(keys_of(Until)))


PHASES = [{"name": "a", "train": ["head"], "until": {"epochs": 1}}, {"name": "b", "train": ["all"]}]


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (
            [{**PHASES[0], "until": {"epochs": 1, "steps": 2}}, {**PHASES[1], "until": {"epochs": 1, "patience": 2}}],
            [
                "freeze.phases[0].until: `until` takes exactly one of",
                "freeze.phases[1].until: `until.patience` requires",
            ],
        ),
        (PHASES[1:] * 2, ["freeze: Two phases are called `b`"]),
        ([PHASES[1], PHASES[0]], ["freeze: Phase `b` has no `until`, so `a` would never begin."]),
    ],
    ids=["until", "names", "no until"],
)
def test_the_rules_of_a_policy_are_checked_with_the_config(phases, expected):
    composed = settings("freeze=gradual_unfreezing")
    with pytest.raises(ConfigError) as error:
        validate(COMMANDS["train"], {**composed, "freeze": {**composed["freeze"], "phases": phases}})
    found = error.value.problems
    assert [problem[: len(message)] for problem, message in zip(found, expected, strict=True)] == expected


@pytest.mark.parametrize("name", ["bakcbone", "file", "../train"])
def test_an_unknown_preset_is_an_error_that_lists_the_choices(name):
    with pytest.raises(ValueError, match=f"There is no preset `{name}`; there are .*gradual_unfreezing, none") as error:
        FreezePolicy.preset(name)
    assert name != "bakcbone" or "Did you mean `backbone`" in str(error.value)


def test_batch_norms_train_under_all_but_batch_norm_and_keep_statistics_under_all_but_bias():
    norms = {name for name, module in NET.named_modules() if type(module).__name__ == "BatchNorm2d"}
    assert not FreezePolicy.preset("all_but_batch_norm").resolve(NET).phases[0].eval_modules & norms
    assert FreezePolicy.preset("all_but_bias").resolve(NET).phases[0].eval_modules >= norms


def test_a_preset_exported_edited_and_given_back(tmp_path):
    path = tmp_path / "mine.yaml"
    write_policy(FreezePolicy.preset("gradual_unfreezing"), path)
    edited = yaml.safe_load(path.read_text())
    edited["phases"][0]["until"] = {"epochs": 2}
    path.write_text(yaml.safe_dump(edited))
    FREEZE["file"].model_validate({"name": "file", "path": str(path)})
    policy = FreezePolicy.from_dict({"path": str(path)})
    assert policy.phases[0].until.epochs == 2
    assert policy.phases[1:] == FreezePolicy.preset("gradual_unfreezing").phases[1:]
