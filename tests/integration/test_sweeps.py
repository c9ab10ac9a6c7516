"""A sweep as its user sees it: a few lines a job, one table at the end, and the same command again."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.integration.conftest import FROSTLINE, SHORT, Cli, facts
from tests.preloaded import Started

# A limit of batches per epoch, with two images each, of an experiment of the user's own.
OWN = "# @package _global_\ntrainer: {limit_test_batches: 2}\ndata: {batch_size: 8}\nfreeze: {batch_norm: frozen}\n"
NUMBER = r"[\d.]+"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/own.yaml").write_text(OWN)
    return [*FROSTLINE, "train", "-m", *SHORT, "--config-dir", "mine", "experiment=own"]


def only_sweep(folder: Path) -> Path:
    [found] = (folder / "runs").iterdir()
    return found


def test_a_job_fails_the_others_run_and_the_same_command_runs_what_is_missing(
    cli: Cli, tmp_path: Path, words: list[str]
) -> None:
    words = [*words, "optimizer.lr=0.01,1e30", "seed=1,2"]
    done = cli(*words)
    sweep = only_sweep(tmp_path)
    assert done.returncode == 2
    result = rf"  best val accuracy {NUMBER} %, test accuracy {NUMBER} %, \d:\d\d"
    shown = done.stdout.splitlines()
    for line, pattern in zip(
        shown[:8],
        [
            *(r"job 1 of 4: optimizer\.lr=0\.01 seed=1", result, r"job 2 of 4: optimizer\.lr=0\.01 seed=2", result),
            *(
                r"job 3 of 4: optimizer\.lr=1e\+30 seed=1",
                "  failed",
                r"job 4 of 4: optimizer\.lr=1e\+30 seed=2",
                "  failed",
            ),
        ],
        strict=True,
    ):
        assert re.fullmatch(pattern, line), done.stdout
    assert re.match(r"job +optimizer\.lr +seed +best val accuracy +mean ± sd over seeds +test accuracy +time", shown[8])
    assert {line.split()[0] for line in shown[9:11]} == {"1", "2"}
    assert all(re.search(rf" {NUMBER} ± {NUMBER} % \(2\) ", line) for line in shown[9:11])
    assert [line.split()[0] for line in shown[11:13]] == ["3", "4"]
    assert shown[13].startswith("failed           3, 4: The loss became nan")
    best = shown[14].removeprefix("best             ")
    assert "--config-dir mine experiment=own optimizer.lr=0.01 seed=" in best
    assert shown[15:] == [f"sweep folder     {sweep}", f"summary.csv      {sweep / 'summary.csv'}"]
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("frostline: 2 of the sweep's jobs failed: 3 (optimizer.lr=1e+30 ")
    assert len((sweep / "summary.csv").read_text().splitlines()) == 5
    logged = [(sweep / job / "train.log").read_text() for job in "0123"]
    assert all("Phase 1 of 1" in log for log in logged)
    assert "epoch 2/2 · " in logged[0]

    written = (sweep / "0/checkpoints/last.ckpt").stat().st_mtime_ns
    again = cli(*words)
    assert again.returncode == 2
    assert again.stdout.splitlines()[0] == (
        f"Going on with this sweep in {sweep}, 2 jobs are finished; another output_dir begins a new one."
    )
    headers = [line for line in again.stdout.splitlines() if re.match(r"job \d of ", line)]
    assert [line.split()[1] for line in headers] == ["3", "4"]
    assert again.stdout.splitlines()[5].startswith("job ")
    assert again.stdout.splitlines()[6:8] == shown[9:11]  # the finished jobs' rows
    assert (sweep / "0/checkpoints/last.ckpt").stat().st_mtime_ns == written
    assert only_sweep(tmp_path) == sweep


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_by_the_same_command_and_ends_with_the_same_bits(
    cli: Cli, tmp_path: Path, words: list[str]
) -> None:
    words = [*words, "trainer.max_epochs=3", "seed=1,2"]
    process = Started(words, cwd=tmp_path, stdout=tmp_path / "out", stderr=tmp_path / "err")
    end = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/1/checkpoints/last.ckpt")):
        assert time.monotonic() < end, (tmp_path / "err").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    sweep, shown = only_sweep(tmp_path), (tmp_path / "out").read_text()
    last = shown.splitlines()[-1]
    assert last.startswith("The sweep was interrupted. The same command goes on with what is missing: ")
    assert last.endswith("trainer.max_epochs=3 seed=1,2")
    [_, row] = (sweep / "summary.csv").read_text().splitlines()
    assert row.startswith("1,1,val/accuracy,")
    assert "steps" not in facts(sweep / "1")

    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines() if re.match(r"job \d", line)] == ["job 2 of 2"]
    assert facts(sweep / "1")["steps"] == 12
    whole = cli(*words, "output_dir=whole", env={"RUN_ID": "whole"})
    assert whole.returncode == 0, whole.stderr
    for job in "01":
        states = [
            torch.load(folder / job / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
            for folder in (sweep, tmp_path / "whole/whole")
        ]
        assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


@pytest.mark.slow
def test_jobs_on_two_processes_have_the_same_few_lines(cli: Cli, tmp_path: Path, words: list[str]) -> None:
    done = cli(*words, "seed=1,2", "device=cpu", "device.devices=2", env={**os.environ})
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in shown[:4:2]] == ["job 1 of 2", "job 2 of 2"]
    assert shown[4].startswith("job ")
    assert len(shown) == 10
    assert cli(*words, "seed=1,2", "device=cpu", "device.devices=2").stdout.splitlines()[1:] == shown[4:]
