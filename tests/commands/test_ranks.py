"""Processes of a run: who they are, and how they end together."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from frostline.commands import ranks
from frostline.commands.launcher import global_rank, launched_outside, outside_world
from frostline.commands.main import main
from frostline.commands.ranks import announce, await_config, refusal_announced
from frostline.config.commands import TrainConfig
from frostline.config.training import Device

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "abc",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "RANK": "5",
    "WORLD_SIZE": "6",
    "LOCAL_WORLD_SIZE": "3",
}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_NNODES": "4", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}


def given(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_a_process_started_by_hand_is_alone() -> None:
    assert not launched_outside()
    assert global_rank() == 0


@pytest.mark.parametrize(("environment", "rank", "world"), [(TORCHRUN, 5, (3, 2)), (SRUN, 3, (2, 4))])
def test_torchrun_and_srun_are_recognised(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], rank: int, world: tuple[int, int]
) -> None:
    given(monkeypatch, environment)
    assert launched_outside()
    assert global_rank() == rank
    assert outside_world() == world


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_a_shell_on_a_cluster_launches_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    given(monkeypatch, {**SRUN, "SLURM_JOB_NAME": name})
    assert not launched_outside()
    assert global_rank() == 0


def test_srun_of_one_task_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {"SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"})
    assert outside_world() == (1, 1)


# Coming to one config


def test_the_others_wait_until_the_first_rank_has_announced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, TORCHRUN)
    timer = threading.Timer(0.2, announce, [tmp_path])
    began = time.monotonic()
    timer.start()
    assert await_config(tmp_path, seconds=10)
    assert 0.15 < time.monotonic() - began < 5
    timer.join()
    await_config(tmp_path, seconds=0)  # a later rank does not wait


def test_the_others_end_where_the_first_rank_refuses_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, TORCHRUN)
    with pytest.raises(SystemExit), refusal_announced(tmp_path / "run"):
        raise SystemExit(2)
    assert not await_config(tmp_path / "run", seconds=0)
    with pytest.raises(ValueError, match="later"), refusal_announced(tmp_path / "other"):  # noqa: PT012
        (tmp_path / "other").mkdir()
        announce(tmp_path / "other")
        raise ValueError("later")
    assert await_config(tmp_path / "other", seconds=0)


def test_waiting_has_an_end_that_names_the_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, TORCHRUN)
    with pytest.raises(TimeoutError, match=rf"Rank 5 waited 0 s for rank 0 to write {tmp_path}/config\.yaml"):
        await_config(tmp_path, seconds=0)


@pytest.mark.parametrize(
    ("environment", "change"),
    [
        (TORCHRUN, {"TORCHELASTIC_RESTART_COUNT": "1"}),
        (SRUN, {"SLURM_RESTART_COUNT": "1"}),
        (SRUN, {"SLURM_STEP_ID": "2"}),
    ],
)
def test_the_announcement_of_an_earlier_launch_into_the_folder_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], change: dict[str, str]
) -> None:
    """A requeued job comes back to its folder, where the config of the launch before still lies."""
    given(monkeypatch, environment)
    announce(tmp_path)
    given(monkeypatch, change)
    with pytest.raises(TimeoutError):
        await_config(tmp_path, seconds=0)


# Ending together


def children(*codes: str) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-S", "-c", f"import os, time, signal; {code}"]) for code in codes]


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def test_all_succeed() -> None:
    processes = children("pass", "time.sleep(0.2)")
    assert ranks._outcome(processes) == 0
    end(processes)


def test_one_that_fails_gives_its_code_and_the_others_get_their_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.5)
    processes = children("time.sleep(60)", "raise SystemExit(7)")
    began = time.monotonic()
    assert ranks._outcome(processes) == 7
    assert 0.5 < time.monotonic() - began < 20
    assert processes[0].poll() is None  # `start` ends it
    end(processes)


def test_grace_ends_when_the_others_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 60)
    processes = children("time.sleep(0.3)", "raise SystemExit(3)")
    began = time.monotonic()
    assert ranks._outcome(processes) == 3
    assert time.monotonic() - began < 20
    end(processes)


@pytest.mark.parametrize("others", [(), ("time.sleep(60)",)], ids=["alone", "beside another"])
def test_one_that_was_killed_gives_128_plus_the_signal(
    monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.1)
    processes = children("os.kill(os.getpid(), signal.SIGKILL)", *others)
    assert ranks._outcome(processes) == 128 + signal.SIGKILL
    end(processes)


def command_line_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended meanwhile
        return ""


def test_start_ends_its_processes_gives_back_the_signals_and_returns_the_first_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Real workers, without a config: each fails at once."""
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 10)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    assert ranks.start(tmp_path, TrainConfig.model_construct(device=Device()), processes=2) == 1
    assert {signum: signal.getsignal(signum) for signum in before} == before
    # Known by the folder on their command lines: a test process may have other children.
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in command_line_of(path)]
    assert not left


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
@pytest.mark.parametrize("sweep", ["-m", "hydra.mode=MULTIRUN"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_sweep_under_a_launcher_is_refused_by_every_process_and_reported_by_one(
    launcher: str, sweep: str, rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {
        "torchrun": {"TORCHELASTIC_RUN_ID": "none", "RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2},
        "srun": {"SLURM_PROCID": rank, "SLURM_NTASKS": 2, "SLURM_NNODES": 1, "SLURM_JOB_ID": 1},
    }
    for name, value in names[launcher].items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SystemExit) as end:
        main("train", [sweep, "seed=1,2"])
    assert end.value.code == 2
    message = (
        "frostline: -m: start a sweep without torchrun or srun; device.devices=N trains each job on N processes.\n"
    )
    assert capsys.readouterr().err == ("" if rank else message)
    if rank:
        main("predict", ["checkpoint=gone"])  # the first process's business alone
