"""Names of earlier versions: answered where they are typed, understood in a checkpoint."""

from pathlib import Path

import pytest
import torch

from frostline.checkpoint import CHECKPOINT_KEY, read_checkpoint
from frostline.commands.overrides import Invocation, problems_of
from frostline.freezing.policy import FreezePolicy
from frostline.renamed import KEYS, OPTIONS, REMOVED, with_current_names
from tests.test_checkpoint import saved, whole

ANSWERS = {old: f"is now called {new}." for old, new in KEYS.items()} | dict(REMOVED)
RENAMED = [(group, old, new) for group, names in OPTIONS.items() for old, new in names.items()]


@pytest.mark.parametrize(("group", "old", "new"), RENAMED)
def test_an_old_option_is_answered_with_the_new_one(group: str, old: str, new: str) -> None:
    for words in ([f"{group}={old}"], [f"{group}={new},{old}"]):
        [problem] = problems_of(Invocation(command="train", overrides=words))
        assert problem.startswith(f"{group}={old}: is now called {group}={new}.")


@pytest.mark.parametrize(("old", "new"), OPTIONS["freeze"].items())
def test_an_old_preset_is_answered_with_the_new_one(old: str, new: str) -> None:
    with pytest.raises(ValueError, match=f"`{old}` is now called `{new}`"):
        FreezePolicy.preset(old)
    assert FreezePolicy.preset(new).phases


@pytest.mark.parametrize(
    ("old", "answer"), [*((old, f"is now called {new}.") for old, new in KEYS.items()), *REMOVED.items()]
)
def test_an_old_key_is_answered_with_the_new_one_or_the_reason(old: str, answer: str) -> None:
    words = [f"{old}=true", "optimizer=adamw", "data=image_folder", "data.path=."]
    assert f"{old}: {answer}" in problems_of(Invocation(command="train", overrides=words))


def test_a_checkpoint_with_old_names_is_read_with_the_new_ones(tmp_path: Path) -> None:
    content = whole()
    content[CHECKPOINT_KEY]["settings"] = {
        "seed": 1,
        "freeze": {"name": "from_layer4", "train": ["layer4", "head"]},
        "trainer": {"gradient_clip_norm": 0.5, "max_epochs": 2},
        "optimizer": {"_target_": "own.SGD", "include_frozen": True},
    }
    content[CHECKPOINT_KEY]["settings"]["data"] = {"name": "csv", "packed": "/b", "packed_limit": 9.0}
    settings = read_checkpoint(saved(tmp_path / "old.ckpt", content))[CHECKPOINT_KEY]["settings"]
    assert settings == {
        "seed": 1,
        "freeze": {"name": "to_layer3", "train": ["layer4", "head"]},
        "trainer": {"gradient_clip_val": 0.5, "max_epochs": 2},
        "optimizer": {"_target_": "own.SGD"},
        "data": {"name": "csv", "decoded_cache": "/b", "decoded_cache_limit": 9.0},
    }
    own = {"data": {"_target_": "own.Images", "packed": 1}}
    assert with_current_names(own) == own
    kept = torch.load(tmp_path / "old.ckpt", weights_only=True)[CHECKPOINT_KEY]["settings"]
    assert with_current_names(settings) == settings != kept
