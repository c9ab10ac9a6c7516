"""The folder of a sweep: which command it is of, and what has become of each job, recorded in the job's facts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline.commands.run_folder import claimed, read_facts, write_facts
from frostline.config.secret_values import hide
from frostline.storage.atomic import write_text
from frostline.storage.run_files import FACTS, LOG

WORDS = "sweep.yaml"  # the words of the sweep's command


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What became of one job of a sweep.

    number: counted from 0, the name of its folder.
    swept: the keys in which the jobs differ, with this job's values as they are typed.
    message: why it failed; None where it was finished.
    best: `monitor`, `mode` and `score` of its best checkpoint, where it had one.
    results: of its test.
    """

    number: int
    swept: Mapping[str, str]
    message: str | None
    seconds: float
    best: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def opened(new: Path, words: Sequence[str]) -> Iterator[tuple[Path, bool]]:
    """Hold the folder of a sweep, and whether it is one that the same command has begun earlier.

    That is the newest one beside `new`, or `new` itself, that no other process works in.

    Raises:
        ValueError: another sweep works in `new`.
    """
    text = "".join(f"- {json.dumps(hide(word), ensure_ascii=False)}\n" for word in words)
    files = [
        new / WORDS,
        *sorted(new.parent.glob(f"*/{WORDS}"), key=lambda file: file.stat().st_mtime, reverse=True),
    ]
    with ExitStack() as held:
        for file in files:
            if file.is_file() and file.read_text(encoding="utf-8") == text:
                try:
                    held.enter_context(claimed(file.parent))
                except ValueError:
                    continue
                yield file.parent, True
                return
        held.enter_context(claimed(new))
        write_text(new / WORDS, text)
        yield new, False


def record(folder: Path, *, swept: Sequence[str], message: str | None, seconds: float) -> JobRecord:
    """Write into a job's folder what became of it; its best score and its test are in its facts already."""
    pairs = {key.lstrip("+~"): value for key, _, value in (word.partition("=") for word in map(hide, swept))}
    kept = None if message is None else hide(message)
    folder.mkdir(parents=True, exist_ok=True)  # a job may have failed before, or lost it in mid-run
    write_facts(folder, {"job": {"swept": pairs, "message": kept, "seconds": round(seconds, 1)}})
    found = job_in(folder)
    assert found is not None
    return found


def job_in(folder: Path) -> JobRecord | None:
    """The record of the job in a folder; None where it has not come to an end."""
    facts = read_facts(folder)
    if "job" not in facts or not folder.name.isdecimal():
        return None
    swept, message, seconds = (facts["job"][name] for name in ("swept", "message", "seconds"))
    best, results = (facts.get(name) or {} if message is None else {} for name in ("best", "results"))
    return JobRecord(number=int(folder.name), swept=swept, message=message, seconds=seconds, best=best, results=results)


def jobs_in(folder: Path) -> list[JobRecord]:
    """The records of all jobs that have come to an end, in their order."""
    found = [job for file in folder.glob(f"*/{FACTS}") if (job := job_in(file.parent)) is not None]
    return sorted(found, key=lambda job: job.number)


def reason_of(end: SystemExit, folder: Path) -> str:
    """Why a job failed: the message that it printed, or the last line of its log."""
    if message := getattr(end, "message", None):
        return str(message)
    log = folder / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), f"exit code {end.code}")
    return last.strip().removeprefix("frostline: ")
