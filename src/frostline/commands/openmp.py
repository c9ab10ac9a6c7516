"""How OpenMP's threads wait, chosen before torch is imported: spinning, or asleep where other processes are busy."""

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.commands.launcher import launched_outside, outside_world
from frostline.data.cores import usable_cores

if TYPE_CHECKING:
    from frostline.config.training import Device

# Any of them is a choice of the user's own; libgomp and libomp read them once, when torch loads them.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
# Cores that others may use of those that this run computes on: what a desktop does beside it, and errors of measuring.
TOLERATED = 0.3
SHORTEST = 0.1  # seconds between two readings, whose clock ticks every 0.01 s


@dataclass(frozen=True)
class Reading:
    """CPU seconds since the machine started, at a time: of all processes on the usable cores, and of this run's own."""

    time: float
    everyone: float
    own: float


@dataclass(frozen=True)
class Demand:
    """What a run computes with: processes on this machine, threads of each, and the cores that there are for them.

    Attributes:
        quota: cores that the container's limit on processor time amounts to.
    """

    processes: int
    threads: int
    cores: int
    quota: float = float("inf")

    @property
    def all_threads(self) -> int:
        """The threads of all processes."""
        return self.processes * self.threads

    def cores_beside(self, others: float) -> float:
        """The cores that are left where other processes keep so many busy."""
        return max(0.0, min(self.quota, self.cores - others))


def others_between(first: Reading, second: Reading) -> float:
    """How many cores other processes kept busy between two readings."""
    busy = (second.everyone - first.everyone) - (second.own - first.own)
    return max(0.0, busy / (second.time - first.time))


def should_sleep(demand: Demand, others: float) -> bool:
    """Whether threads that wait for each other should sleep: there are more of them than cores left by others.

    A thread that waits for one without a core else spins on a core that the other one, or another process, needs.
    """
    return demand.threads > 1 and demand.all_threads > demand.cores_beside(others) + TOLERATED


_first: Reading | None = None
_reason: str | None = None


def begin() -> None:
    """Take the first reading. The second one comes when a config has been read, some tenths of a second later."""
    global _first
    _first = read()


def choose(device: "Device | None") -> None:
    """Set the environment by which OpenMP's threads sleep, where the config asks for it or other processes are busy.

    Does nothing once torch is imported, or where the user has set one of OpenMP's own variables.
    """
    global _reason
    if "torch" in sys.modules or any(name in os.environ for name in VARIABLES) or device is None:
        return
    if device.openmp_wait == "active":
        return
    if device.openmp_wait == "passive":
        reason = "device.openmp_wait=passive"
    else:
        if _first is None:
            begin()
        if _first is None or (ended := _later(_first)) is None:
            return
        demand, others = demand_of(device), others_between(_first, ended)
        if not should_sleep(demand, others):
            return
        left = demand.cores_beside(others)
        reason = (
            f"{demand.all_threads} threads, and other processes leave {left:.1f} of {demand.cores} cores; "
            "device.openmp_wait=active leaves it out"
        )
    os.environ.update(PASSIVE)
    _reason = reason


def _later(first: Reading) -> Reading | None:
    time.sleep(max(0.0, first.time + SHORTEST - time.monotonic()))
    return read()


def log_choice() -> None:
    """One line where threads sleep by a choice of this module."""
    if _reason is not None:
        import logging  # which registers an exit handler: `fast_exit` has to come before it

        logging.getLogger("frostline").info("OpenMP's threads sleep while they wait: %s", _reason)


def demand_of(device: "Device") -> Demand:
    """What a run with these settings computes with on this machine; ranks.start sets OMP_NUM_THREADS for its ranks."""
    cores = usable_cores()
    processes = outside_world()[0] if launched_outside() else device.devices if device.devices != "all" else 1
    given = "" if processes > 1 and not launched_outside() else os.environ.get("OMP_NUM_THREADS", "")
    threads = device.threads or (int(given) if given.isdecimal() else cores // processes)
    return Demand(processes=processes, threads=max(1, threads), cores=cores, quota=_quota())


def _quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """The limit of the control group, version 2, that a container sees as its own."""
    try:
        most, period = file.read_text().split()
        return int(most) / int(period)
    except (OSError, ValueError):  # another version, or `max`
        return float("inf")


def read() -> Reading | None:
    """None where the system has no /proc."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        tick = os.sysconf("SC_CLK_TCK")
        own = _family_seconds(tick) if launched_outside() else sum(os.times()[:4])
    except (AttributeError, OSError):
        return None
    return Reading(time.monotonic(), busy_seconds(lines, cores, tick), own)


def busy_seconds(lines: Iterable[str], cores: set[str], tick: int) -> float:
    """User, nice, system and interrupt time of some cores, of the lines of /proc/stat."""
    fields = (line.split() for line in lines)
    return sum(int(row[i]) for row in fields if row[0] in cores for i in (1, 2, 3, 6, 7)) / tick


def _family_seconds(tick: int) -> float:
    """CPU seconds of the process that started this one and all that it started: a run's ranks on this machine."""
    parents, seconds = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        process = int(file.parent.name)
        parents[process], seconds[process] = int(fields[1]), sum(map(int, fields[11:15])) / tick
    family = {os.getppid()}
    while more := {process for process, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(seconds.get(process, 0.0) for process in family)
