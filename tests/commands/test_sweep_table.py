"""A sweep's table: jobs by result, the mean over seeds, and the failures, with numbers known by hand."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from frostline.commands.job_records import job_in, record
from frostline.commands.sweep_table import conclude, result_text


@pytest.fixture(autouse=True)
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "-m", "optimizer.lr=0.1,0.2", "seed=1,2", "data.path='a b'"]
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "/usr/bin/frostline", *words])
    monkeypatch.setattr(sys, "argv", ["/usr/bin/frostline", *words])


def job(folder: Path, *swept: str, score: float | None = None, message: str | None = None, **facts: Any) -> None:
    folder.mkdir(parents=True)
    best = {} if score is None else {"best": {"monitor": "val/accuracy", "mode": "max", "score": score}}
    (folder / "facts.json").write_text(json.dumps({"seed": 0, **best, **facts}))
    record(folder, swept=swept, message=message, seconds=61.26)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_jobs_are_listed_by_the_mean_over_seeds_and_the_failed_last(tmp_path: Path) -> None:
    job(tmp_path / "0", "optimizer.lr=0.1", "seed=1", score=0.5, results={"test/accuracy": 0.25})
    job(tmp_path / "1", "optimizer.lr=0.1", "seed=2", score=0.9, results={"test/accuracy": 0.75})  # 70 ± 28.28
    job(tmp_path / "2", "optimizer.lr=0.2", "seed=1", score=0.75, results={"test/accuracy": 0.5})
    job(tmp_path / "3", "optimizer.lr=0.2", "seed=2", message="The loss became nan")
    job(tmp_path / "10", "optimizer.lr=0.4", "seed=1", message="The loss became nan")
    text = conclude(tmp_path)
    head = "job optimizer.lr seed best val accuracy mean ± sd over seeds test accuracy time"
    assert rows(text)[0] == head.split()
    assert rows(text)[1:6] == [
        ["3", "0.2", "1", "75.00", "%", "75.00", "%", "(1)", "50.00", "%", "1:01"],
        ["2", "0.1", "2", "90.00", "%", "70.00", "±", "28.28", "%", "(2)", "75.00", "%", "1:01"],
        ["1", "0.1", "1", "50.00", "%", "70.00", "±", "28.28", "%", "(2)", "25.00", "%", "1:01"],
        ["4", "0.2", "2", "failed", "1:01"],
        ["11", "0.4", "1", "failed", "1:01"],
    ]
    assert text.splitlines()[6:] == [
        "failed           4, 11: The loss became nan",
        """best             frostline train 'data.path='"'"'a b'"'"'' optimizer.lr=0.2 seed=1""",
        f"sweep folder     {tmp_path}",
        f"summary.csv      {tmp_path / 'summary.csv'}",
    ]
    with (tmp_path / "summary.csv").open(newline="") as file:
        [head, *table] = csv.reader(file)
    assert head == [
        "job",
        "optimizer.lr",
        "seed",
        "monitor",
        "score",
        "mean",
        "sd",
        "test/accuracy",
        "seconds",
        "failed",
    ]
    assert table[1][:6] == ["2", "0.1", "2", "val/accuracy", "0.9", "0.7"]
    assert float(table[1][6]) == pytest.approx(0.4 / 2**0.5)
    assert table[3] == ["4", "0.2", "2", "", "", "", "", "", "61.3", "The loss became nan"]


def test_a_lower_loss_is_better_and_without_seeds_there_is_no_mean(tmp_path: Path) -> None:
    for number, loss in enumerate((0.5, 0.25)):
        best = {"monitor": "val/loss", "mode": "min", "score": loss}
        job(tmp_path / str(number), f"freeze={number}", best=best)
    text = conclude(tmp_path)
    assert rows(text)[:3] == [
        ["job", "freeze", "best", "val", "loss", "time"],
        ["2", "1", "0.25", "1:01"],
        ["1", "0", "0.5", "1:01"],
    ]
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert [row[4:6] for row in csv.reader(file)] == [["mean", "sd"], ["", ""], ["", ""]]


def test_without_a_validation_the_test_decides_and_without_both_nothing_is_best(tmp_path: Path) -> None:
    job(tmp_path / "a/0", "seed=1", results={"test/accuracy": 0.25})
    job(tmp_path / "a/1", "seed=2", results={"test/accuracy": 0.5})
    assert [row[0] for row in rows(conclude(tmp_path / "a"))[1:3]] == ["2", "1"]
    job(tmp_path / "b/0", "seed=1")
    assert "best" not in conclude(tmp_path / "b").split("sweep folder")[0]
    assert conclude(tmp_path / "c") == ""


def test_one_line_says_what_a_job_came_to(tmp_path: Path) -> None:
    job(tmp_path / "0", "seed=1", score=0.5, results={"test/accuracy": 0.25})
    job(tmp_path / "1", "seed=2", message="The loss became nan")
    texts = [result_text(found) for name in "01" if (found := job_in(tmp_path / name))]
    assert texts == ["best val accuracy 50.00 %, test accuracy 25.00 %, 1:01", "failed"]
