"""Where a run starts: from a checkpoint under another policy, or on from one, which must then be the same."""

from pathlib import Path

import pytest
import torch

from tests.integration.conftest import FROSTLINE, SHORT, Cli, only_run
from tests.preloaded import run as run_preloaded


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    words = [*FROSTLINE, "train", *SHORT, "freeze=backbone", "test=false"]
    done = run_preloaded(words, cwd=folder, output=folder)
    assert done.returncode == 0, done.stderr
    return only_run(folder) / "checkpoints/last.ckpt"


def test_init_from_starts_a_run_under_another_policy_and_lists_what_was_loaded(
    checkpoint: Path, cli: Cli, tmp_path: Path
) -> None:
    words = [word for word in SHORT if not word.startswith("model.weights")]
    done = cli(*FROSTLINE, "train", *words, "freeze=all_but_bias", f"init_from={checkpoint}", "head=mlp", "test=false")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "120 tensors loaded, 2 skipped (fc.weight, fc.bias), 4 newly initialised" in done.stdout
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    after = torch.load(only_run(tmp_path) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    moved = {name for name in before if name in after and not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.endswith(".bias") for name in moved)


def test_init_from_refuses_what_is_no_frostline_checkpoint(cli: Cli, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    done = cli(*FROSTLINE, "train", *SHORT, "init_from=other.pth")
    assert done.returncode == 2
    assert "is not a frostline checkpoint" in done.stderr
    assert "model.weights=" in done.stderr


def test_a_resume_under_a_changed_policy_is_refused_unless_asked_for_by_name(checkpoint: Path, cli: Cli) -> None:
    longer = [word for word in SHORT if "max_epochs" not in word] + ["trainer.max_epochs=3", "freeze=to_layer3"]
    words = [*FROSTLINE, "train", *longer, f"resume_from={checkpoint}", "test=false"]
    refused = cli(*words)
    assert refused.returncode == 2, refused.stdout
    assert "on_policy_change=restart" in refused.stderr
    assert "Traceback" not in refused.stderr
    restarted = cli(*words, "on_policy_change=restart")
    assert restarted.returncode == 0, restarted.stderr


def test_an_output_dir_that_cannot_be_written_is_reported_before_anything_starts(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    done = cli(*FROSTLINE, "train", *SHORT)
    assert done.returncode == 2
    assert "/runs` is a file; name a folder." in done.stderr
