"""One run, one folder: what it is called and what is written into it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.configs import config, typed

from frostline.commands.run_folder import (
    claimed,
    continued,
    prepare,
    read_config,
    removed_where_refused,
    run_key,
    write_facts,
)


@pytest.fixture(autouse=True)
def _fresh_key() -> Iterator[None]:
    run_key.cache_clear()
    yield
    run_key.cache_clear()


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"RUN_ID": "mine"}, "mine"),
        ({"RUN_ID": "mine", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "TORCHELASTIC_RUN_ID": "x"}, "mine"),
        ({"SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}, "slurm-7"),
        (
            {"SLURM_PROCID": "1", "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "3"},
            "slurm-8_3",
        ),
        ({"TORCHELASTIC_RUN_ID": "abc"}, "elastic-abc"),
    ],
)
def test_every_process_of_a_launch_has_the_same_key(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], key: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run_key() == key


@pytest.mark.parametrize(
    "environment",
    [{}, {"TORCHELASTIC_RUN_ID": "none"}, {"SLURM_JOB_ID": "7"}],
    ids=["nothing", "torchrun without --rdzv-id", "a shell inside an allocation"],
)
def test_otherwise_the_key_is_the_time_and_a_random_suffix(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    key = run_key()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{4}", key)
    assert run_key() == key  # within one process it does not change


def test_two_runs_started_in_the_same_second_do_not_meet() -> None:
    code = "from frostline.commands.run_folder import run_key; print(run_key())"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0].strip() for process in running)
    assert first.rpartition("_")[2] != second.rpartition("_")[2]


def test_the_config_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    chosen = config("freeze=all_but_batch_norm", "data.mean=[0.5,0.25,1]")
    folder = tmp_path / "runs" / "one"
    prepare(folder, chosen, ["seed=0", "freeze.train=['from:layer4']"])
    assert typed(read_config(folder)) == chosen
    assert (folder / "overrides.yaml").read_text() == "- seed=0\n- freeze.train=['from:layer4']\n"


def test_without_overrides_the_file_says_so(tmp_path: Path) -> None:
    prepare(tmp_path, config(), [])
    assert (tmp_path / "overrides.yaml").read_text() == "[]\n"


def test_facts_are_merged(tmp_path: Path) -> None:
    write_facts(tmp_path, {"seed": 0, "git": None})
    write_facts(tmp_path, {"results": {"test/accuracy": 0.5}, "seed": 1})
    assert json.loads((tmp_path / "facts.json").read_text()) == {
        "seed": 1,
        "git": None,
        "results": {"test/accuracy": 0.5},
    }


HOLD = """
import sys, time
from pathlib import Path
from frostline.commands.run_folder import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_ended_or_crashed(tmp_path: Path) -> None:
    folder = tmp_path / "runs/two"
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        in_use = rf"two: is in use by another run \(process {first.pid} on "
        with pytest.raises(ValueError, match=in_use), claimed(folder):
            pass
        first.kill()
        first.wait()
    with claimed(folder):
        pass


PLAIN = config()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"")
    return tmp_path


def test_a_run_that_starts_in_a_folder_with_a_checkpoint_is_refused_and_explains_what_to_type(trained: Path) -> None:
    with pytest.raises(ValueError, match=f"would overwrite. To go on with it: .* resume_from={trained}"):
        continued(trained, PLAIN)


@pytest.mark.parametrize(
    "changed", [{"fit": True, "resume_from": "elsewhere/last.ckpt"}, {"fit": False, "resume_from": None}]
)
def test_a_resumed_run_and_one_that_only_tests_go_on(trained: Path, changed: dict[str, object]) -> None:
    chosen = PLAIN.model_copy(update=changed)
    assert continued(trained, chosen) == chosen


def test_a_new_folder_is_taken(tmp_path: Path) -> None:
    assert continued(tmp_path, PLAIN) == PLAIN


@pytest.mark.parametrize("name", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_job_that_was_started_again_goes_on(monkeypatch: pytest.MonkeyPatch, trained: Path, name: str) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.raises(ValueError, match="would overwrite"):
        continued(trained, PLAIN)
    monkeypatch.setenv(name, "1")
    assert continued(trained, PLAIN).resume_from == f"{trained}/checkpoints/last.ckpt"
    (trained / "checkpoints/last.ckpt").rename(trained / "checkpoints/best.ckpt")
    with pytest.raises(ValueError, match="would overwrite"):
        continued(trained, PLAIN)


def test_a_new_run_in_the_folder_of_a_finished_one_moves_what_that_left(trained: Path) -> None:
    content = (trained / "checkpoints/last.ckpt").read_bytes()
    for number in (1, 2):
        (trained / "facts.json").write_text('{"steps": 4}')
        assert continued(trained, PLAIN) == PLAIN
        assert (trained / f"earlier-{number}/facts.json").exists()
        assert not (trained / "checkpoints").exists()
        (trained / "checkpoints").mkdir()
        (trained / "checkpoints/last.ckpt").write_bytes(b"another run's")
    assert (trained / "earlier-1/checkpoints/last.ckpt").read_bytes() == content
    assert (trained / "earlier-2/checkpoints/last.ckpt").read_bytes() == b"another run's"


def test_a_run_refused_before_its_config_leaves_no_folder_but_a_sweeps_job_its_log(tmp_path: Path) -> None:
    for folder, config_written in ((tmp_path / "a", False), (tmp_path / "b", True)):
        with pytest.raises(ValueError, match="refused"), claimed(folder), removed_where_refused(folder):  # noqa: PT012
            (folder / "train.log").touch()
            if config_written:
                (folder / "config.yaml").touch()
            raise ValueError("refused")
        assert folder.exists() == config_written
    (tmp_path / "sweep/0").mkdir(parents=True)
    (tmp_path / "sweep/multirun.yaml").touch()
    with claimed(tmp_path / "sweep/0"), removed_where_refused(tmp_path / "sweep/0"):
        (tmp_path / "sweep/0/train.log").touch()
    assert (tmp_path / "sweep/0/train.log").exists()
