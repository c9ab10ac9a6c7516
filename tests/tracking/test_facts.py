"""What a run records of its surroundings."""

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import torch

from frostline.tracking.facts import PACKAGES, environment_facts, git_facts, hardware_facts


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "file").write_text("one")
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for words in (["init", "--quiet"], ["add", "file"], [*identity, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    return folder


def test_versions_seed_command_hardware_and_commit_are_recorded(repository: Path) -> None:
    facts = environment_facts(command="python train.py seed=3", seed=3)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["command"], facts["seed"], facts["folder"]) == ("python train.py seed=3", 3, str(repository))
    assert set(facts["versions"]) == {"python", *PACKAGES}
    assert None not in facts["versions"].values()
    assert torch.__version__.startswith(facts["versions"]["torch"].partition("+")[0])
    assert datetime.fromisoformat(facts["started"]).tzinfo is not None
    assert len(facts["git"]["commit"]) == 40


def test_uncommitted_changes_are_reported(repository: Path) -> None:
    clean = git_facts(repository)
    assert clean is not None
    assert not clean["dirty"]
    (repository / "file").write_text("two")
    assert git_facts(repository) == {"commit": clean["commit"], "dirty": True}


def test_outside_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_facts(tmp_path) is None


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_facts(repository) is None


def test_the_machine() -> None:
    facts = hardware_facts()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert 0.1 < facts["memory_gib"] < 100_000
    assert len(facts["gpus"]) == torch.cuda.device_count()
