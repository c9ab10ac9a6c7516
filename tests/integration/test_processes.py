"""Several processes: one run folder, one config, one result, and nothing lost on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.integration.conftest import FROSTLINE, ROOT, SHORT, Cli, facts

Weights = dict[str, torch.Tensor]


def weights(folder: Path, run: str) -> Weights:
    state = torch.load(folder / "runs" / run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(state, dict)
    return state


def equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_two_cpu_processes_and_torchrun_train_in_one_folder_each_with_the_same_result(cli: Cli, tmp_path: Path) -> None:
    by_device = cli(*FROSTLINE, "train", *SHORT, "device=cpu_ddp", env={"RUN_ID": "own"})
    assert by_device.returncode == 0, by_device.stdout + by_device.stderr
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(ROOT / "train.py"), *SHORT]
    by_torchrun = cli(*words, env={"RUN_ID": "torchrun"})
    assert by_torchrun.returncode == 0, by_torchrun.stdout + by_torchrun.stderr

    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"own", "torchrun"}
    assert equal(weights(tmp_path, "own"), weights(tmp_path, "torchrun"))
    one, other = (facts(tmp_path / "runs" / name) for name in ("own", "torchrun"))
    assert one["results"] == other["results"]
    # Each of the 359 test images counts once: the confusion matrix holds them all.
    images = sum(row["images"] for row in one["per_class"])  # type: ignore[attr-defined]
    assert images == sum(map(sum, one["confusion"]))  # type: ignore[call-overload]
    assert by_device.stdout.count("test accuracy ") == 1
    assert (tmp_path / "runs/own/train.rank1.log").exists()


def test_a_batch_that_cannot_be_shared_out_is_refused_with_the_sizes_that_can(cli: Cli, tmp_path: Path) -> None:
    done = cli(*FROSTLINE, "train", "device=cpu_ddp", "data.batch_size=33")
    assert done.returncode == 2
    assert "Use 32 or 34" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_mistake_found_by_the_processes_is_reported_once_without_a_traceback(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    done = cli(*FROSTLINE, "train", "device=cpu_ddp", "data=image_folder", "data.path=images", "model.weights=none")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("frostline:") == 1, done.stderr


@pytest.mark.parametrize(("device", "signum"), [("cpu", signal.SIGINT), ("cpu_ddp", signal.SIGTERM)])
def test_an_interrupted_run_that_is_resumed_ends_bit_identical(
    device: str, signum: signal.Signals, cli: Cli, tmp_path: Path
) -> None:
    short = [word for word in SHORT if not word.startswith("trainer.limit_train")]
    words = [
        *FROSTLINE,
        "train",
        *short,
        "trainer.limit_train_batches=30",
        "data.batch_size=8",
        f"device={device}",
        "test=false",
    ]
    whole = cli(*words, env={"RUN_ID": "whole"})
    assert whole.returncode == 0, whole.stderr

    process = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, "RUN_ID": "cut"}, stdout=subprocess.DEVNULL)
    log = tmp_path / "runs/cut/train.log"
    _wait(lambda: log.exists() and "Phase 1" in log.read_text())
    time.sleep(0.5)
    process.send_signal(signum)
    assert process.wait(120) == 128 + signum
    output = log.read_text()
    assert f"Interrupted by {signum.name}" in output
    command = output.partition("To go on: ")[2].strip().splitlines()[0]
    assert f"resume_from={tmp_path}/runs/cut/checkpoints/last.ckpt" in command

    resumed = cli(*words, f"resume_from={tmp_path}/runs/cut/checkpoints/last.ckpt", env={"RUN_ID": "resumed"})
    assert resumed.returncode == 0, resumed.stderr
    assert facts(tmp_path / "runs/resumed")["steps"] == 60
    assert equal(weights(tmp_path, "whole"), weights(tmp_path, "resumed"))


def test_when_one_process_dies_the_run_ends(cli: Cli, tmp_path: Path) -> None:
    words = [*FROSTLINE, "train", *SHORT, "trainer.max_epochs=500", "device=cpu_ddp"]
    process = subprocess.Popen(
        words, cwd=tmp_path, env={**os.environ, "RUN_ID": "r"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = tmp_path / "runs/r/train.log"
    _wait(lambda: log.exists() and "Phase 1" in log.read_text())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    assert process.wait(60) != 0


def _wait(ready: object, *, seconds: float = 120) -> None:
    assert callable(ready)
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "the run did not start"
        time.sleep(0.1)
