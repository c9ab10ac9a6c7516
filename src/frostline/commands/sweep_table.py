"""What a sweep came to: its jobs by result as a table and as summary.csv, and the best one's command."""

import csv
import statistics
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from frostline import tables
from frostline.commands.command_line import command_of_job
from frostline.commands.job_records import JobRecord, jobs_in
from frostline.progress_line import clock
from frostline.storage.atomic import write_text
from frostline.tracking.report import METRICS

SUMMARY = "summary.csv"
SEED = "seed"


def result_text(job: JobRecord) -> str:
    """One line: "best val accuracy 71.20 %, test accuracy 70.10 %, 0:12"."""
    if job.message is not None:
        return "failed"
    name, shown = score_of(job), []
    if name is not None:
        shown.append(f"{_title(name)} {_value(name, job)}")
    if "test/accuracy" in job.results and name != "test/accuracy":
        shown.append(f"test accuracy {_number('test/accuracy', job.results['test/accuracy'])}")
    return ", ".join([*shown, clock(job.seconds)])


def conclude(folder: Path) -> str:
    """Write summary.csv, and give the table, the failures and the command of the best job as text."""
    jobs = ranked(jobs_in(folder))
    if not jobs:
        return ""
    write_text(folder / SUMMARY, _as_csv(jobs))
    lines = [_table(jobs), *_failures(jobs)]
    if score_of(jobs[0]) is not None:
        lines.append(f"best             {command_of_job(jobs[0].swept)}")
    return "\n".join([*lines, f"sweep folder     {folder}", f"{SUMMARY:<16} {folder / SUMMARY}"])


def ranked(jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """Best first: by the mean over seeds, then by a job's own score; then those without a score, then the failed."""

    def key(job: JobRecord) -> tuple[int, float, float, int]:
        if score_of(job) is None:
            return (2 if job.message is not None else 1, 0.0, 0.0, job.number)
        sign = 1 if job.best.get("mode") == "min" else -1
        return (0, sign * statistics.fmean(_scores_over_seeds(job, jobs)), sign * _score(job), job.number)

    return sorted(jobs, key=key)


def score_of(job: JobRecord) -> str | None:
    """The name of the value by which a job is compared: the monitored one, else the test accuracy."""
    if job.message is not None:
        return None
    name = job.best.get("monitor")
    return str(name) if name is not None else "test/accuracy" if "test/accuracy" in job.results else None


def _score(job: JobRecord) -> float:
    return float(job.best["score"] if job.best.get("monitor") is not None else job.results["test/accuracy"])


def _scores_over_seeds(job: JobRecord, jobs: Sequence[JobRecord]) -> list[float]:
    """The scores of the jobs that differ from this one in their seed alone, its own included."""

    def but_for_the_seed(one: JobRecord) -> dict[str, str]:
        return {key: value for key, value in one.swept.items() if key != SEED}

    alike = [one for one in jobs if but_for_the_seed(one) == but_for_the_seed(job) and score_of(one) == score_of(job)]
    return [_score(one) for one in alike]


def _table(jobs: Sequence[JobRecord]) -> str:
    keys, names = _keys(jobs), list(dict.fromkeys(name for job in jobs if (name := score_of(job)) is not None))
    seeds = SEED in keys and len(jobs) > 1
    tested = any("test/accuracy" in job.results for job in jobs) and "test/accuracy" not in names
    over = ["mean ± sd over seeds"] if seeds else []
    table = tables.new_table(
        "job", *keys, *map(_title, names), *over, *(["test accuracy"] if tested else []), "time", left=keys
    )
    for job in jobs:
        scores = [_value(name, job) if score_of(job) == name else "" for name in names]
        if job.message is not None:
            scores = ["failed", *scores[1:]]
        found = job.results.get("test/accuracy")
        table.add_row(
            str(job.number + 1),
            *(job.swept.get(key, "") for key in keys),
            *scores,
            *([_mean_text(job, jobs)] if seeds else []),
            *(["" if found is None else _number("test/accuracy", found)] if tested else []),
            clock(job.seconds),
        )
    return tables.as_text(table)


def _failures(jobs: Sequence[JobRecord]) -> list[str]:
    """A line for each message, with the jobs that failed by it."""
    numbers: dict[str, list[str]] = {}
    for job in jobs:
        if job.message is not None:
            numbers.setdefault(job.message, []).append(str(job.number + 1))
    return [f"failed           {', '.join(found)}: {message}" for message, found in numbers.items()]


def _mean_text(job: JobRecord, jobs: Sequence[JobRecord]) -> str:
    name = score_of(job)
    if name is None:
        return ""
    scores = _scores_over_seeds(job, jobs)
    mean, count = _number(name, statistics.fmean(scores)), f"({len(scores)})"
    if len(scores) == 1:
        return f"{mean} {count}"
    return f"{mean.removesuffix(' %')} ± {_number(name, statistics.stdev(scores))} {count}"


def _as_csv(jobs: Sequence[JobRecord]) -> str:
    """One row a job, best first, with whole numbers; `mean` and `sd` are over seeds, where those are swept."""
    keys, metrics = _keys(jobs), list(dict.fromkeys(name for job in jobs for name in job.results))
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["job", *keys, "monitor", "score", "mean", "sd", *metrics, "seconds", "failed"])
    for job in jobs:
        name = score_of(job)
        scores = [] if name is None else _scores_over_seeds(job, jobs)
        spread = [statistics.fmean(scores) if scores else "", statistics.stdev(scores) if len(scores) > 1 else ""]
        rows.writerow(
            [
                job.number + 1,
                *(job.swept.get(key, "") for key in keys),
                *([name, _score(job)] if name is not None else ["", ""]),
                *(spread if SEED in keys else ["", ""]),
                *(job.results.get(metric, "") for metric in metrics),
                job.seconds,
                job.message or "",
            ]
        )
    return text.getvalue()


def _keys(jobs: Sequence[JobRecord]) -> list[str]:
    return list(dict.fromkeys(key for job in jobs for key in job.swept))


def _title(name: str) -> str:
    split, _, metric = name.partition("/")
    text = f"{split} {METRICS.get(metric, (metric, False))[0]}".strip()
    return text if split == "test" else f"best {text}"


def _value(name: str, job: JobRecord) -> str:
    return _number(name, _score(job))


def _number(name: str, value: float) -> str:
    _, is_share = METRICS.get(name.partition("/")[2], ("", False))
    return f"{100 * value:.2f} %" if is_share else f"{value:.4g}"
