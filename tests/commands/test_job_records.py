"""The same command finds the sweep that it has begun, and no other one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.commands.failures import Failed
from frostline.commands.job_records import job_in, jobs_in, opened, reason_of, record
from frostline.config import secret_values


def test_the_newest_sweep_of_the_same_command_is_gone_on_with(tmp_path: Path) -> None:
    words = ["seed=1,2", "freeze=backbone"]
    for name, age in (("old", 20), ("new", 10)):
        (tmp_path / name).mkdir()
        with opened(tmp_path / "somewhere", ["another"]):
            pass
        (tmp_path / "somewhere/sweep.yaml").rename(tmp_path / name / "sweep.yaml")
        (tmp_path / name / "sweep.yaml").write_text('- "seed=1,2"\n- "freeze=backbone"\n')
        os.utime(tmp_path / name / "sweep.yaml", (age, 1e9 - age))
    with opened(tmp_path / "next", words) as found:
        assert found == (tmp_path / "new", True)
    assert not (tmp_path / "next").exists()
    for other in (["seed=1,2,3", "freeze=backbone"], ["seed=1,2"], [*words, "model=resnet34"]):
        with opened(tmp_path / "next", other) as found:
            assert found == (tmp_path / "next", False)
    with opened(tmp_path / "next", [*words, "model=resnet34"]) as found:
        assert found == (tmp_path / "next", True)


HOLDING = """
import sys, time
from pathlib import Path
from frostline.commands.job_records import opened
with opened(Path(sys.argv[1]), ["seed=1,2"]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_sweep_that_runs_now_is_left_alone(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDING, str(tmp_path / "now")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        try:
            with opened(tmp_path / "next", ["seed=1,2"]) as found:
                assert found == (tmp_path / "next", False)
            with pytest.raises(ValueError, match="is in use by another run"), opened(tmp_path / "now", ["seed=3"]):
                pass
        finally:
            other.kill()


def test_a_secret_is_written_nowhere(tmp_path: Path) -> None:
    secret_values.remember({"password": "hunter2222"})
    with opened(tmp_path / "a", ["data.password=hunter2222"]):
        pass
    record(tmp_path / "a/0", swept=["data.password=hunter2222"], message="no hunter2222", seconds=1.0)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and "hunter2222" in file.read_text()]
    with opened(tmp_path / "b", ["data.password=hunter2222"]) as found:
        assert found == (tmp_path / "a", True)


def test_only_jobs_that_came_to_an_end_have_a_record(tmp_path: Path) -> None:
    record(tmp_path / "10", swept=["seed=2"], message=None, seconds=1.0)
    record(tmp_path / "9", swept=["seed=1"], message="out of memory", seconds=2.0)
    (tmp_path / "11").mkdir()
    (tmp_path / "11/facts.json").write_text('{"steps": 3, "job"')
    assert [(job.number, job.message) for job in jobs_in(tmp_path)] == [(9, "out of memory"), (10, None)]
    assert job_in(tmp_path / "11") is None
    assert job_in(tmp_path / "12") is None


def test_why_a_job_failed(tmp_path: Path) -> None:
    assert reason_of(Failed("no such file"), tmp_path) == "no such file"
    assert reason_of(SystemExit(2), tmp_path) == "exit code 2"
    (tmp_path / "train.log").write_text("Traceback\n  …\nfrostline: The loss became nan\n\n")
    assert reason_of(SystemExit(2), tmp_path) == "The loss became nan"
