"""What a training costs beside other busy processes, for each way in which OpenMP's threads wait.

Usage: python scripts/benchmark/busy.py [--repeats 3] [--loads 0,1,3] [--waits active,passive,auto] [KEY=VALUE ...]

Whole processes of `frostline train` (the default config, two epochs, and KEY=VALUE) take turns over the waits and the
loads, so that a drift of the machine affects all equally. A load is a number of processes that compute without end. The
fair share of a run is what its threads get of the cores when all threads and processes get the same; × fair share is
how many times as long the run takes as it would on its share, from the median of `active` without load.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from frostline.commands.openmp import VARIABLES
from frostline.data.cores import usable_cores

ROOT = Path(__file__).resolve().parents[2]
WAITS = ("active", "passive", "auto")
SETTLING = 1.0  # seconds between the start of the load and that of the run


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many busy processes, in the session of the run: the system shares the cores between sessions first."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        time.sleep(SETTLING)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run_once(wait: str, overrides: list[str]) -> tuple[float, bool]:
    """Seconds of one training, and whether its threads slept."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with tempfile.TemporaryDirectory(prefix="busy-") as folder:
        command = [sys.executable, str(ROOT / "train.py"), "trainer.max_epochs=2", f"device.openmp_wait={wait}"]
        command += [f"output_dir={folder}/runs", f"cache.folder={folder}/cache", *overrides]
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return seconds, "threads sleep" in done.stdout


def table(measured: dict[tuple[int, str], list[tuple[float, bool]]], *, cores: int) -> list[str]:
    """A row for each load and wait: seconds, and how many times the quiet run's and the fair share's."""
    medians = {key: median(seconds for seconds, _ in runs) for key, runs in measured.items()}
    quiet = medians.get((0, "active"))
    lines = ["| busy processes | wait | seconds | lowest | highest | slept | × quiet | × fair share |"]
    lines.append("|---:|---|---:|---:|---:|---:|---:|---:|")
    for (processes, wait), runs in sorted(measured.items()):
        seconds, slept = zip(*runs, strict=True)
        ratios = ["", ""]
        if quiet is not None:
            ratio = medians[processes, wait] / quiet
            ratios = [f"{ratio:.2f}", f"{ratio / (1 + processes / cores):.2f}"]
        cells = [processes, wait, f"{median(seconds):.1f}", f"{min(seconds):.1f}", f"{max(seconds):.1f}"]
        lines.append(f"| {' | '.join(map(str, [*cells, f'{sum(slept)} of {len(slept)}', *ratios]))} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loads", type=lambda text: [int(word) for word in text.split(",")], default=[0, 1, 3])
    parser.add_argument("--waits", type=lambda text: text.split(","), default=list(WAITS))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the load and the run end with this process
    measured: dict[tuple[int, str], list[tuple[float, bool]]] = {}
    for repeat in range(options.repeats):
        for processes, (place, _) in itertools.product(options.loads, enumerate(options.waits)):
            wait = options.waits[(place + repeat) % len(options.waits)]
            with load(processes):
                seconds, slept = run_once(wait, options.overrides)
            print(f"{processes} busy, {wait}: {seconds:.1f} s{', slept' if slept else ''}", flush=True)
            measured.setdefault((processes, wait), []).append((seconds, slept))
    print("\n".join(table(measured, cores=usable_cores())))


if __name__ == "__main__":
    main()
