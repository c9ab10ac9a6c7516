"""frostline against what a user would take instead, measured on this machine: `make benchmark`.

Usage: python -m scripts.benchmark.contest [--repeats 3] [--workloads w1a,w2] [--contestants frostline,plain] …

Whole processes run in turns over the competitors, one round for each repeat, so that a drift of the machine affects
all equally; the repeat's number is the seed of all. Each run is one line of the results file, written when it ends: a
benchmark that was interrupted continues where it stopped. At the end, or with --report at once, a section of
docs/benchmarks-history.md and its picture in docs/figures are written, for each number of images their own.
"""

import argparse
import compileall
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scripts.benchmark.contest.competitors import (
    FOUR_VIEWS,
    FROSTLINE,
    PEERS,
    ROOT,
    STANDARD,
    competitors,
    frostline_command,
    peer_command,
    python_of,
    reached_by_frostline,
    reached_by_peer,
    set_up,
    versions,
)  # fmt: skip
from scripts.benchmark.contest.images import make_folder
from scripts.benchmark.contest.peers.task import CLASSES, CORES, SWEEP, WORKLOADS
from scripts.benchmark.contest.report import section_name, write_report
from scripts.benchmark.contest.results import Record, last, newest, read_lines
from scripts.benchmark.document import processor

MEASURE = Path(__file__).with_name("measure.py")
# glibc then keeps what was freed, which is the best setting for the bare model.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**31 - 1), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
IMPORTS = {
    "plain": "torch, torchvision", "torchvision": "torch, torchvision", "timm": "timm", "lightning": "lightning",
    "fastai": "fastai.vision.all", "hf": "datasets, transformers.trainer",
    "expert": "torch, torchvision", "sklearn": "torch, torchvision, sklearn.linear_model",
}  # fmt: skip


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark.contest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [FROSTLINE, *PEERS]
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workloads", type=_chosen(list(WORKLOADS)), default=list(WORKLOADS), help="comma-separated")
    parser.add_argument("--contestants", type=_chosen(names), default=names, help="comma-separated")
    parser.add_argument("--fast-peers", action="store_true", help="peers a second time, with channels-last and bf16")
    parser.add_argument("--train-images", type=int, default=2000)
    parser.add_argument("--val-images", type=int, default=500)
    parser.add_argument("--long", action="store_true", help="10,000 + 1,000 images")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS of every competitor; without it, all cores")
    parser.add_argument("--all-sweep-runs", action="store_true", help="run a peer's sweep, not one run of it times 12")
    parser.add_argument("--weights", type=Path, help="torchvision ResNet-18 state dict to start from; its head is new")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one process")
    parser.add_argument("--override", action="append", default=[], help="KEY=VALUE for frostline, may be repeated")
    parser.add_argument("--set-up", action="store_true", help="make the peers' environments first")
    parser.add_argument("--folder", type=Path, default=ROOT / ".benchmark", help="images, logs and results")
    parser.add_argument("--results", type=Path, help="results file; without it, one for each setting in --folder")
    parser.add_argument("--again", action="store_true", help="run again what the results already hold")
    parser.add_argument("--no-limits", action="store_true", help="leave the machine's own limit out")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/benchmarks-history.md")
    parser.add_argument("--picture", type=Path, help="without it, one for each size in docs/figures")
    options = parser.parse_args(arguments)
    if options.long:
        options.train_images, options.val_images = 10_000, 1_000
    if options.train_images < 32 or options.val_images < CLASSES:
        parser.error("at least 32 training images (one batch) and 10 validation images (one of each class)")
    options.folder = options.folder.resolve()
    name = f"results-{options.train_images}-{options.val_images}-threads-{options.threads or 'all'}.jsonl"
    options.results = options.results or options.folder / name
    return options


def _chosen(choices: list[str]):
    def parse(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(choices)}")
        return [name for name in choices if name in text.split(",")]

    return parse


class Benchmark:
    """The runs of one command; `failures` names those that went wrong."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.failures: list[str] = []
        self.data = options.folder / f"images-{options.train_images}-{options.val_images}"
        self.weights = options.folder / f"weights-{options.weights.stem if options.weights else 'synthetic'}.pth"
        self.logs = options.folder / "logs"
        self.environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "RUN_ID")}
        if options.threads:
            self.environment["OMP_NUM_THREADS"] = str(options.threads)
        else:
            self.environment.pop("OMP_NUM_THREADS", None)

    def prepare(self) -> None:
        """Images, weights and compiled bytecode; every library read once, so that no run waits for a cold disk."""
        options = self.options
        self.logs.mkdir(parents=True, exist_ok=True)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        peers = [name for name in options.contestants if name in PEERS]
        if options.set_up:
            set_up(peers)
        for name in peers:
            python_of(name)
        compileall.compile_dir(ROOT / "src", quiet=2)
        print(f"images: {self.data}", flush=True)
        make_folder(self.data, train_images=options.train_images, val_images=options.val_images)
        if not self.weights.exists():
            print(f"initial weights: {self.weights}", flush=True)
            command = [sys.executable, "-m", "scripts.benchmark.contest.weights", str(self.weights), str(self.data)]
            given = ["--given", str(options.weights.resolve())] if options.weights else []
            subprocess.run([*command, *given], env=self.environment, cwd=ROOT, check=True)
        for name in options.contestants:
            python, modules = sys.executable, "frostline.commands.train, frostline.commands.build"
            if name in PEERS:
                python, modules = str(python_of(name)), IMPORTS[name]
            subprocess.run([python, "-c", f"import {modules}"], env=self.environment, check=True, capture_output=True)
        self.write({"kind": "contest", **self.describe(peers)})

    def describe(self, peers: list[str]) -> Record:
        """The machine, the versions and the setting."""
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        own = [name for name in peers if PEERS[name].anywhere and str(python_of(name)) == sys.executable]
        return {
            "train_images": self.options.train_images,
            "val_images": self.options.val_images,
            "threads": self.options.threads,
            "cores": CORES,
            "processor": processor(),
            "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
            "system": platform.platform(),
            "versions": versions(peers),
            "in_frostlines_environment": own,
            "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown",
            "overrides": self.options.override,
            "weights": self.options.weights.name if self.options.weights else None,
            "command": self.options.command,
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def write(self, line: Record) -> None:
        with self.options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def run_all(self) -> None:
        """Every workload's competitors in turns, in changing order, once for each repeat."""
        options = self.options
        done = set() if options.again else set(newest(read_lines(options.results)))
        for repeat in range(options.repeats):
            for workload in options.workloads:
                names = competitors(workload, chosen=options.contestants, fast_peers=options.fast_peers)
                if workload == "w4" and not options.all_sweep_runs:
                    names = [name for name in names if name == FROSTLINE]
                turn = repeat % max(1, len(names))
                for name in names[turn:] + names[:turn]:
                    if (workload, name, repeat) not in done:
                        self.run(workload, name, repeat)

    def run(self, workload: str, name: str, repeat: int) -> None:
        """One measured run, and its line."""
        print(f"{datetime.now().astimezone():%H:%M:%S} {workload} {name}, repeat {repeat}", end=" … ", flush=True)
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.options.folder) as folder:
            output = Path(folder)
            log = self.logs / f"{workload}-{name}-{repeat}.log"
            ours = name in (FROSTLINE, FOUR_VIEWS)
            given: dict[str, Any] = {"data": self.data, "weights": self.weights, "output": output, "seed": repeat}
            if ours:
                commands = [frostline_command(name, workload, **given, extra=self.options.override)]
            else:
                settings = SWEEP if WORKLOADS[workload].runs > 1 else [STANDARD]
                commands = [peer_command(name, workload, **given, setting=setting) for setting in settings]
            found: list[Record] = []
            reached: Record = {}
            for place, command in enumerate(commands):
                if not ours:
                    shutil.rmtree(output)
                    output.mkdir()
                found.append(self.measure(command, log=log))
                if found[-1]["returncode"]:
                    what = "timed out" if found[-1]["timed_out"] else f"ended with {found[-1]['returncode']}"
                    print(f"{what}, see {log}", flush=True)
                    self.failures.append(f"{workload} {name}: {what}, see {log}")
                    self.write(
                        {"kind": "failure", "workload": workload, "contestant": name, "repeat": repeat, **found[-1]}
                    )
                    return
                if ours:
                    reached = reached_by_frostline(workload, output)
                elif len(commands) == 1 or SWEEP[place] == STANDARD:
                    reached = reached_by_peer(output)
            line = {"kind": "run", "workload": workload, "contestant": name, "repeat": repeat, **_together(found)}
            self.write(
                {
                    **line,
                    **reached,
                    "command": shlex.join(commands[0]),
                    "when": f"{datetime.now().astimezone():%FT%T%z}",
                }
            )
            print(
                f"{line['wall']:.1f} s, {line['cpu']:.1f} CPU s, {line['peak_pss'] / 1e6:.0f} MB, accuracy "
                f"{reached['accuracy']:.3f}, others {100 * line['others']:.0f} %",
                flush=True,
            )

    def measure(self, command: list[str], *, log: Path) -> Record:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            subprocess.run(
                [sys.executable, str(MEASURE), "--result", file.name, "--log", str(log), "--watch", str(self.data),
                 "--timeout", str(self.options.timeout), "--", *command],
                env=self.environment, cwd=ROOT, check=True,
            )  # fmt: skip
            found: Record = json.loads(Path(file.name).read_text())
        return {**found, "cpu": found["user"] + found["system"]}

    def measure_limits(self) -> None:
        """The machine's own limit, once; again where runs were added."""
        print("the machine's own limit …", flush=True)
        command = [sys.executable, "-m", "scripts.benchmark.contest.limits", str(self.data), str(self.weights)]
        environment = {**self.environment, **KEEP_MEMORY}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            self.failures.append(f"the machine's own limit: {done.stderr.strip()[-400:]}")
            return
        self.write({"kind": "limits", **json.loads(done.stdout.splitlines()[-1])})


def _together(found: list[Record]) -> Record:
    """Several processes one after the other as one: times add up, memory is the largest, others by time."""
    total = {key: sum(line[key] for line in found) for key in ("wall", "user", "system", "cpu")}
    started = [line for line in found if "start_wall" in line]
    if len(started) == len(found):
        total |= {key: sum(line[key] for line in found) for key in ("start_wall", "start_cpu")}
    total |= {key: max(line[key] for line in found) for key in ("peak_pss", "max_rss")}
    total["others"] = sum(line["others"] * line["wall"] for line in found) / total["wall"]
    return total


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    options.command = shlex.join(["python", "-m", "scripts.benchmark.contest", *words])
    failures: list[str] = []
    if not options.report:
        benchmark = Benchmark(options)
        benchmark.prepare()
        if not options.no_limits and (options.again or not last(read_lines(options.results), "limits")):
            benchmark.measure_limits()
        benchmark.run_all()
        failures = benchmark.failures
    name = section_name({"train_images": options.train_images, "val_images": options.val_images})
    picture = options.picture or ROOT / "docs" / "figures" / f"{name.replace('contest', 'benchmark')}.svg"
    write_report(options.results, document=options.document, picture=picture)
    print(f"written: {options.document}, {picture}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
