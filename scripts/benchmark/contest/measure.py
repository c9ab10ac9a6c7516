"""One command, measured as a whole process tree: time, processor time, memory, start-up, and what others used.

Usage: python measure.py --result FILE [--log FILE] [--watch FOLDER] [--timeout SECONDS] -- COMMAND …

- wall: from the start to the end of the command's own process.
- user, system: processor seconds of the command and of every descendant, as the kernel counts them when they end. This
  process is their subreaper, so that orphans count as well, and it ends those that outlive the command.
- peak_pss: the largest sum, over the tree, of proportional set sizes (a shared page is divided among those who share
  it), in bytes, sampled; max_rss: the largest resident set of any one process, exact.
- start_wall, start_cpu: until the first file below FOLDER was opened (inotify): imports, building, scanning.
- others: the share of all cores that everything else on the machine used meanwhile.

Needs nothing beyond the standard library and Linux.
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

INTERVAL = 0.4  # seconds; each sample costs some 20 ms of a processor
GRACE = 10.0  # seconds for what outlives the command
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36
IN_OPEN, IN_ISDIR, IN_ONLYDIR = 0x20, 0x40000000, 0x01000000
libc = ctypes.CDLL(None, use_errno=True)


def descendants(root: int) -> list[int]:
    """Ids of all processes below `root`, itself not among them."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            fields = stat_fields(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat after the command's name: state, parent, …; empty where the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_of(pids: list[int]) -> float:
    """Processor seconds of living processes and of the children that they have waited for."""
    return sum(sum(map(int, fields[11:15])) for fields in map(stat_fields, pids) if fields) / TICKS


def pss_of(pids: list[int]) -> int:
    """Bytes; a process that is gone, or that ends meanwhile, counts nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def machine_busy() -> float:
    """Processor seconds that the whole machine has worked since it booted."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS


class Opens:
    """Tells when a file below a folder is opened; the folder's own subfolders are watched, as they are now."""

    def __init__(self, folder: Path) -> None:
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1 failed")
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            if libc.inotify_add_watch(self.descriptor, os.fsencode(place), IN_OPEN | IN_ONLYDIR) < 0:
                raise OSError(ctypes.get_errno(), f"cannot watch {place}")

    def happened(self) -> bool:
        """Whether a file (listing a folder does not count) was opened since the last question."""
        try:
            events, place = os.read(self.descriptor, 65536), 0
        except BlockingIOError:
            return False
        while place < len(events):
            _, mask, _, length = struct.unpack_from("iIII", events, place)
            if not mask & IN_ISDIR:
                return True
            place += 16 + length
        return False


def measure(command: list[str], *, log: int, watch: Path | None, timeout: float) -> dict[str, object]:
    """Run the command; this process must have, and have had, no other children."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    opens = Opens(watch) if watch else None
    busy, start = machine_busy(), time.perf_counter()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    ended = os.pidfd_open(child.pid)
    peak, sampled, started, timed_out = 0, 0.0, None, False
    while child.poll() is None:
        waited_for = [ended] if started or not opens else [ended, opens.descriptor]
        select.select(waited_for, [], [], INTERVAL)
        now = time.perf_counter() - start
        if opens and not started and opens.happened():
            started = {"start_wall": now, "start_cpu": cpu_of(descendants(os.getpid()))}
        elif now - sampled >= INTERVAL / 2:
            sampled, peak = now, max(peak, pss_of(descendants(os.getpid())))
        if now > timeout:
            timed_out = True
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    wall = time.perf_counter() - start
    end_all(grace=GRACE)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    elapsed, cores = time.perf_counter() - start, len(os.sched_getaffinity(0))
    own = resource.getrusage(resource.RUSAGE_SELF)
    tree = used.ru_utime + used.ru_stime
    others = machine_busy() - busy - tree - own.ru_utime - own.ru_stime
    return {
        "wall": wall,
        "user": used.ru_utime,
        "system": used.ru_stime,
        "peak_pss": peak,
        "max_rss": used.ru_maxrss * 1024,
        **(started or {}),
        "others": max(0.0, others) / (elapsed * cores),
        "returncode": child.returncode,
        "timed_out": timed_out,
    }


def end_all(*, grace: float) -> None:
    """Wait for every descendant; ask those to end that are left after `grace` seconds, then make them."""
    deadline = time.monotonic() + grace
    asked = False
    while True:
        while True:
            try:
                done, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not done:
                break
        if time.monotonic() >= deadline:
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if asked else signal.SIGTERM)
            asked, deadline = True, time.monotonic() + 5
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--watch", type=Path)
    parser.add_argument("--timeout", type=float, default=float("inf"))
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) if options.log else sys.stderr.fileno()
    found = measure(options.command, log=log, watch=options.watch, timeout=options.timeout)
    options.result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
