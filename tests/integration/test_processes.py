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
from tests.preloaded import Started, run_ranks
from tests.preloaded import run as run_preloaded

# 30 steps: enough to be interrupted among them.
LONGER = [
    *(word for word in SHORT if not word.startswith("trainer.limit_train")),
    *("trainer.limit_train_batches=15", "data.batch_size=8", "test=false"),
]

Weights = dict[str, torch.Tensor]


def weights(folder: Path, run: str) -> Weights:
    state = torch.load(folder / "runs" / run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(state, dict)
    return state


def equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_cpu_processes_and_torchrun_train_in_one_folder_each_with_the_same_result(cli: Cli, tmp_path: Path) -> None:
    by_device = cli(*FROSTLINE, "train", *SHORT, "device=cpu_ddp", env={"RUN_ID": "own"}, preloaded=False)
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


def test_a_mistake_found_by_the_processes_is_reported_once_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    words = [*FROSTLINE, "train", "device=cpu_ddp", "data=image_folder", "data.path=images", "model.weights=none"]
    ranks = run_ranks(words, cwd=tmp_path, output=tmp_path, env={**os.environ, "RUN_ID": "run"})
    stderr = "".join(rank.stderr for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, 2], stderr
    assert "Traceback" not in stderr
    assert stderr.count("frostline:") == 1, stderr


def test_what_the_first_rank_refuses_ends_the_others_within_seconds(tmp_path: Path) -> None:
    words = [*FROSTLINE, "train", "device=cpu_ddp", "device.devices=3"]
    ranks = run_ranks(words, cwd=tmp_path, output=tmp_path, env={**os.environ, "RUN_ID": "run"})
    stderr = "".join(rank.stderr for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, 2], stderr
    assert stderr.count("frostline:") == 1, stderr


@pytest.mark.parametrize(
    ("device", "signum"),
    [
        pytest.param("cpu", signal.SIGINT, marks=pytest.mark.slow),  # test_going_on has it by default
        pytest.param("cpu_ddp", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_that_is_resumed_ends_bit_identical(
    device: str, signum: signal.Signals, tmp_path: Path
) -> None:
    words = [*FROSTLINE, "train", *LONGER, f"device={device}"]
    trained_whole(words, "whole", tmp_path)
    assert interrupted(words, signum, tmp_path).endswith("frostline train resume_from=runs/cut")
    trained_whole([*words, "resume_from=runs/cut"], "resumed", tmp_path)
    assert facts(tmp_path / "runs/resumed")["steps"] == 30
    assert equal(weights(tmp_path, "whole"), weights(tmp_path, "resumed"))


def trained_whole(words: list[str], run: str, folder: Path) -> None:
    """Train without an interruption: on one process, or on two as a launcher starts them."""
    env = {**os.environ, "RUN_ID": run}
    if "device=cpu_ddp" in words:
        ended = run_ranks(words, cwd=folder, output=folder, env=env)
    else:
        ended = [run_preloaded(words, cwd=folder, output=folder, env=env)]
    for process in ended:
        assert process.returncode == 0, process.stderr


def interrupted(words: list[str], signum: signal.Signals, folder: Path) -> str:
    """Interrupt a run `cut` in mid-epoch; what it says to type to go on."""
    process = Started(words, cwd=folder, env={**os.environ, "RUN_ID": "cut"})
    log = folder / "runs/cut/train.log"
    _wait(lambda: log.exists() and "Phase 1" in log.read_text())
    time.sleep(0.2)
    process.send_signal(signum)
    assert process.wait(120) == 128 + signum
    output = log.read_text()
    assert f"Interrupted by {signum.name}" in output
    return output.partition("To go on: ")[2].strip().splitlines()[0]


@pytest.mark.slow  # tests/commands/test_ranks.py has each part of it
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
