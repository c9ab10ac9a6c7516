"""What the benchmark's lines say: medians, ratios to the fastest peer, and whether the targets are met."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scripts.benchmark.contest.competitors import FOUR_VIEWS, FROSTLINE, PEERS
from scripts.benchmark.contest.peers.task import WORKLOADS

Record = dict[str, Any]

# How many times as fast as the fastest peer, in wall time and in processor time: as its users write it, and with
# channels-last and bf16 (issue 5).
TARGETS = {
    ("w1a", FROSTLINE): 12.0,
    ("w1b", FROSTLINE): 4.0,
    ("w1b", FOUR_VIEWS): 8.0,
    ("w2", FROSTLINE): 2.2,
    ("w3", FROSTLINE): 3.0,
    ("w4", FROSTLINE): 80.0,
}
FAST_TARGETS = {("w1a", FROSTLINE): 5.0, ("w2", FROSTLINE): 1.1}
# What of a run is compared; `others` is the disturbance.
MEASURES = ("wall", "cpu", "start_wall", "start_cpu", "peak_pss", "accuracy", "steps", "others")


@dataclass(frozen=True)
class Row:
    """Medians over the repeats of one competitor in one workload; seconds, bytes, shares.

    Attributes:
        accuracies: of each run; their seeds differ.
        repeats: how many runs they are from.
        multiplied: by how much time was multiplied: 12 where a sweep was not run but one of its runs was.
    """

    workload: str
    competitor: str
    values: dict[str, float | None]
    repeats: int
    multiplied: int = 1
    accuracies: tuple[float, ...] = ()

    def __getitem__(self, measure: str) -> float | None:
        return self.values[measure]

    @property
    def is_peer(self) -> bool:
        return self.competitor not in (FROSTLINE, FOUR_VIEWS)

    @property
    def is_fast(self) -> bool:
        return self.competitor.endswith("+fast")

    @property
    def is_expert(self) -> bool:
        return self.competitor in PEERS and PEERS[self.competitor].expert


def read_lines(file: Path) -> list[Record]:
    """Every line of a results file; a last line that was cut off by an interruption is left out."""
    lines: list[Record] = []
    texts = file.read_text().splitlines() if file.exists() else []
    for place, text in enumerate(texts):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            if place != len(texts) - 1:
                raise
    return lines


def newest(lines: Iterable[Record]) -> dict[tuple[str, str, int], Record]:
    """The last run of each workload, competitor and repeat: one that was done again replaces the one before."""
    return {(line["workload"], line["contestant"], line["repeat"]): line for line in lines if line.get("kind") == "run"}


def last(lines: Iterable[Record], kind: str) -> Record:
    """The last line of a kind, or nothing."""
    return next((line for line in reversed(list(lines)) if line.get("kind") == kind), {})


def rows(lines: Iterable[Record]) -> list[Row]:
    """One row for each workload and competitor; a sweep that a peer did not run is its W1a, as often as it has runs."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for (workload, competitor, _), line in newest(lines).items():
        groups.setdefault((workload, competitor), []).append(line)
    found = [_row(workload, competitor, runs) for (workload, competitor), runs in groups.items()]
    swept = {competitor for workload, competitor in groups if workload == "w4"}
    if swept:
        runs = WORKLOADS["w4"].runs
        found += [
            _row("w4", competitor, lines, multiplied=runs)
            for (workload, competitor), lines in groups.items()
            if workload == "w1a" and competitor not in swept | {FROSTLINE, "sklearn"}
        ]
    order = list(WORKLOADS)
    return sorted(
        found, key=lambda row: (order.index(row.workload), row.is_expert, row.is_fast, row.is_peer, row["wall"])
    )


def _row(workload: str, competitor: str, lines: list[Record], *, multiplied: int = 1) -> Row:
    values: dict[str, float | None] = {}
    for measure in MEASURES:
        known = [line[measure] for line in lines if line.get(measure) is not None]
        values[measure] = median(known) if known else None
        if measure in ("wall", "cpu", "start_wall", "start_cpu") and known:
            values[measure] = median(known) * multiplied
    accuracies = tuple(line["accuracy"] for line in lines if line.get("accuracy") is not None)
    return Row(workload, competitor, values, repeats=len(lines), multiplied=multiplied, accuracies=accuracies)


def fastest_peer(found: list[Row], workload: str, measure: str, *, fast: bool = False) -> Row | None:
    """The peer with the least of a measure: as its users write it, or (`fast`) with channels-last and bf16 as well."""
    peers = [row for row in found if row.workload == workload and row.is_peer and not row.is_expert]
    peers = [row for row in peers if fast or not row.is_fast]
    if fast and not any(row.is_fast for row in peers):
        return None
    return min(peers, key=lambda row: row[measure] or float("inf"), default=None)


def ratio(row: Row, peer: Row | None, measure: str) -> float | None:
    """How many times as much the peer took."""
    if peer is None or not row[measure] or not peer[measure]:
        return None
    return peer[measure] / row[measure]  # type: ignore[operator]


@dataclass(frozen=True)
class TargetResult:
    """A target and what was measured; `ratios` are wall and processor time, or memory alone."""

    text: str
    target: float
    ratios: dict[str, float]
    against: dict[str, str]

    @property
    def met(self) -> bool:
        if "memory" in self.ratios:  # below means below
            return self.ratios["memory"] > self.target
        return all(value >= self.target for value in self.ratios.values())


def target_results(found: list[Row]) -> list[TargetResult]:
    """The targets for which something was measured."""
    results = []
    for targets, fast in ((TARGETS, False), (FAST_TARGETS, True)):
        for (workload, competitor), target in targets.items():
            row = row_of(found, workload, competitor)
            peers = {m: fastest_peer(found, workload, m, fast=fast) for m in ("wall", "cpu")}
            if row is None or None in peers.values():
                continue
            ratios = {m: ratio(row, peer, m) for m, peer in peers.items()}
            views = ", four cached views" if competitor == FOUR_VIEWS else ""
            text = (
                f"{workload.capitalize()}{views}, peers {'with channels-last and bf16 too' if fast else 'as written'}"
            )
            against = {m: peer.competitor for m, peer in peers.items() if peer}
            results.append(TargetResult(text, target, {m: r for m, r in ratios.items() if r is not None}, against))
    for workload in WORKLOADS:
        row = row_of(found, workload, FROSTLINE)
        leanest = fastest_peer(found, workload, "peak_pss")
        share = None if row is None else ratio(row, leanest, "peak_pss")
        if share is not None and leanest is not None:
            text = f"{workload.capitalize()}, peak memory below the leanest peer's"
            results.append(TargetResult(text, 1.0, {"memory": share}, {"memory": leanest.competitor}))
    return results


def row_of(found: list[Row], workload: str, competitor: str) -> Row | None:
    """The row of a competitor in a workload; None where it did not run."""
    return next((row for row in found if (row.workload, row.competitor) == (workload, competitor)), None)


def images_seen(workload: str, *, train: int, val: int) -> int:
    """Images that pass through a network: training and validation, in all epochs of all runs."""
    task = WORKLOADS[workload]
    return task.runs * task.epochs * (train + val)


def bare_seconds(workload: str, *, train: int, val: int, limits: Record) -> float:
    """What the bare model would need for the same passes, at its best rates; frozen stages have no backward pass.

    An epoch of layer4 and head counts as a forward pass, which is less than it is.
    """
    task = WORKLOADS[workload]
    stepped = sum(epochs for part, epochs in task.phases if part == "all")
    forward, step = limits["forward"]["wall"], limits["step"]["wall"]
    one = stepped * train / step + (task.epochs - stepped) * train / forward + task.epochs * val / forward
    return one * task.runs
