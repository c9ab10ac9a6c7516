"""How OpenMP's threads wait: chosen from what other processes use, before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.commands import openmp
from frostline.commands.openmp import Demand, Reading, busy_seconds, demand_of, others_between, should_sleep
from frostline.config.training import Device

TWO = Demand(processes=1, threads=2, cores=2)
ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


@pytest.mark.parametrize(
    ("demand", "others", "sleep"),
    [
        (TWO, 0.0, False),
        (TWO, 0.25, False),  # what a desktop does
        (TWO, 0.35, True),
        (TWO, 1.0, True),
        (TWO, 2.0, True),
        (Demand(processes=1, threads=1, cores=2), 2.0, False),  # a thread alone waits for no other
        (Demand(processes=1, threads=4, cores=8), 4.0, False),  # the others have cores of their own
        (Demand(processes=1, threads=4, cores=8), 5.0, True),
        (Demand(processes=2, threads=2, cores=4), 0.0, False),  # two ranks that share the cores
        (Demand(processes=2, threads=2, cores=2), 0.0, True),  # two ranks with more threads than cores
        (Demand(processes=1, threads=8, cores=8, quota=2.0), 0.0, True),  # a container's limit
        (Demand(processes=1, threads=2, cores=8, quota=2.0), 4.0, False),
    ],
)
def test_threads_sleep_where_others_leave_fewer_cores_than_threads(demand, others, sleep):
    assert should_sleep(demand, others) is sleep


def test_a_runs_own_processor_time_is_not_that_of_others():
    first, second = Reading(time=10.0, everyone=100.0, own=5.0), Reading(time=10.5, everyone=101.0, own=5.4)
    assert others_between(first, second) == pytest.approx(1.2)
    assert others_between(first, Reading(time=10.5, everyone=100.2, own=5.3)) == 0.0  # the clocks tick apart


def test_only_the_usable_cores_are_read_and_neither_idle_nor_stolen_time():
    lines = ["cpu  9 9 9 9", "cpu0 100 20 30 4000 500 6 7 800 9 0", "cpu1 1000 0 0 0 0 0 0 0 0 0", "intr 5"]
    assert busy_seconds(lines, {"cpu0"}, 100) == pytest.approx(1.63)
    assert busy_seconds(lines, {"cpu0", "cpu1"}, 100) == pytest.approx(11.63)


@pytest.mark.parametrize(("text", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", float("inf"))])
def test_the_limit_of_a_container_is_read(tmp_path, text, quota):
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert openmp._quota(file) == quota
    assert openmp._quota(tmp_path / "missing") == float("inf")


def test_the_demand_is_that_of_all_ranks_on_this_machine(monkeypatch):
    monkeypatch.setattr(openmp, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")

    def asked(**settings) -> tuple[int, int]:
        demand = demand_of(Device(**settings))
        return demand.processes, demand.threads

    assert asked() == (1, 8)
    assert asked(threads=3) == (1, 3)
    assert asked(devices=2) == (2, 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert asked() == (1, 5)
    assert asked(devices=2) == (2, 4)  # which ranks.start gives them
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert asked() == (4, 5)


# A process of its own: what libgomp says when torch loads it.

CODE = """
import importlib, sys, types
from frostline.commands import openmp
from frostline.commands.main import main
readings = iter([openmp.Reading(0.0, 0.0, 0.0), openmp.Reading(1.0, {others}, 0.0)])
openmp.read = lambda: next(readings)
openmp.usable_cores = lambda: 2
# OpenMP displays its settings when torch is imported: all that is needed of the command.
sys.modules["frostline.commands.plan"] = types.SimpleNamespace(run=lambda config: importlib.import_module("torch"))
openmp.begin()
main(None, sys.argv[1:])
"""

SLEEPS = "GOMP_SPINCOUNT = '0'"


def output_of(tmp_path: Path, *words: str, others: float = 0.0, **environment: str) -> tuple[str, str]:
    """OpenMP's settings as they are displayed, and the log, of a command."""
    clean = {name: value for name, value in os.environ.items() if name not in openmp.VARIABLES}
    clean |= {"OMP_NUM_THREADS": "2", "OMP_DISPLAY_ENV": "verbose", **environment}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(others=others), *words],
        env=clean, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr, done.stdout


@ON_LINUX
def test_openmp_sleeps_beside_busy_processes(tmp_path):
    displayed, _ = output_of(tmp_path, "plan", others=1.9)
    assert SLEEPS in displayed


@ON_LINUX
@pytest.mark.parametrize(
    ("words", "others", "environment"),
    [
        ((), 0.1, {}),
        (("device.openmp_wait=active",), 1.9, {}),
        ((), 1.9, {"GOMP_SPINCOUNT": "100"}),  # the user's own setting
        (("device.openmp_wait=passive",), 0.0, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_openmp_spins_where_it_is_quiet_or_was_asked_for(tmp_path, words, others, environment):
    displayed, _ = output_of(tmp_path, "plan", *words, others=others, **environment)
    assert "GOMP_SPINCOUNT = " in displayed
    assert SLEEPS not in displayed


@ON_LINUX
def test_openmp_sleeps_where_a_config_imports_torch_while_it_is_checked(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "own.yaml").write_text("_target_: torch.nn.CrossEntropyLoss\n")
    own = ("--config-dir", str(tmp_path), "loss=own")
    displayed, _ = output_of(tmp_path, "plan", *own, "device.openmp_wait=passive")
    assert SLEEPS in displayed


@ON_LINUX
def test_the_ranks_of_a_run_sleep_too_and_the_log_says_it_once(tmp_path):
    ranks = ("device.devices=2", "device.threads=2", "device.accelerator=cpu")
    options = ("trainer.fast_dev_run=true", "test=false", f"output_dir={tmp_path}", "data.image_size=32")
    displayed, log = output_of(tmp_path, "train", *options, *ranks, others=1.9)
    assert displayed.count(SLEEPS) == displayed.count("GOMP_SPINCOUNT = ") >= 2
    assert log.count("OpenMP's threads sleep while they wait: 4 threads, and other processes leave 0.1 of 2 cores") == 1


FAMILY = """
import subprocess, sys, time
if len(sys.argv) == 1:  # the launcher
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        subprocess.run([sys.executable, __file__, "rank"], check=True)
    finally:
        busy.kill()
    sys.exit()
from frostline.commands.openmp import read
first = read()
time.sleep(1)
print(read().own - first.own)
"""


@ON_LINUX
def test_the_other_ranks_of_a_launcher_are_not_other_processes(tmp_path):
    (tmp_path / "family.py").write_text(FAMILY)

    def own_seconds(**launcher: str) -> float:
        command = [sys.executable, str(tmp_path / "family.py")]
        return float(subprocess.run(command, env=os.environ | launcher, stdout=-1, text=True, check=True).stdout)

    assert own_seconds() < 0.05
    assert own_seconds(TORCHELASTIC_RUN_ID="1") > 0.1  # even beside many other processes
