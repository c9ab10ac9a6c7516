"""The texts before and after a run."""

from pathlib import Path

import pytest
import torch

from frostline.tracking.report import (
    MOST_CLASSES,
    class_table,
    comparison,
    evaluation_facts,
    evaluation_text,
    metrics_table,
    places_text,
)

CONFUSION = torch.tensor([[1500, 500], [0, 0]])


def test_an_evaluation_is_plain_values() -> None:
    facts = evaluation_facts({"test/accuracy": 0.75}, CONFUSION, ["a", "b"])
    assert facts["results"] == {"test/accuracy": 0.75}
    assert facts["confusion"] == [[1500, 500], [0, 0]]
    assert [(row["class"], row["images"], row["recall"]) for row in facts["per_class"]] == [
        ("a", 2000, 0.75),
        ("b", 0, 0),
    ]


def test_without_a_confusion_matrix_there_are_results_only() -> None:
    facts = evaluation_facts({"test/loss": 1.0}, None, ["a"])
    assert facts == {"results": {"test/loss": 1.0}}
    lines = [line.split() for line in evaluation_text(facts).splitlines()]
    assert lines == [["metric", "value"], ["test", "loss", "1.0000"]]


@pytest.mark.parametrize(
    ("name", "value", "cells"),
    [
        ("test/accuracy", 0.98765, "test accuracy 98.77 %"),
        ("test/accuracy_top5", 1.0, "test accuracy, top 5 100.00 %"),
        ("val/f1", 0.5, "val macro F1 50.00 %"),
        ("test/calibration_error", 0.015, "test calibration error 1.50 %"),
        ("test/loss", 0.12345, "test loss 0.1235"),
        ("test/own", 2.0, "test own 2.0000"),
    ],
)
def test_shares_are_shown_in_percent_and_others_as_they_are(name: str, value: float, cells: str) -> None:
    row = metrics_table({name: value}).splitlines()[1]
    assert " ".join(row.split()) == cells


def test_the_class_table_by_hand() -> None:
    facts = evaluation_facts({}, CONFUSION, ["a", "b"])
    rows = [" ".join(line.split()) for line in class_table(facts["per_class"]).splitlines()]
    assert "a 2,000 100.0 % 75.0 % 85.7 %" in rows
    assert "b 0 0.0 % 0.0 % 0.0 %" in rows


def test_the_accuracy_stands_beside_guessing_and_the_largest_class_by_hand() -> None:
    facts = evaluation_facts({"test/accuracy": 0.875}, torch.tensor([[6, 0], [1, 1]]), ["a", "b"])
    assert comparison(facts) == "without a network: 50.0 % by guessing, 75.0 % by the largest class alone"
    assert evaluation_text(facts).endswith(comparison(facts))
    # As a metric gives it: two thirds in float32 are more than two thirds.
    third = evaluation_facts({"test/accuracy": torch.tensor(2 / 3).item()}, torch.tensor([[2, 0], [1, 0]]), ["a", "b"])
    assert comparison(third).endswith("; this network is no better, so it has learned nothing of use")
    for right in ([[6, 0], [2, 0]], [[0, 6], [2, 0]]):
        matrix = torch.tensor(right)
        accuracy = matrix.diagonal().sum().item() / 8
        facts = evaluation_facts({"test/accuracy": accuracy}, matrix, ["a", "b"])
        assert comparison(facts).endswith("; this network is no better, so it has learned nothing of use")


def test_many_classes_are_not_for_a_screen() -> None:
    for classes, shown in ((MOST_CLASSES, True), (MOST_CLASSES + 1, False)):
        facts = evaluation_facts({"test/loss": 1.0}, torch.eye(classes), [f"class {i}" for i in range(classes)])
        assert bool(class_table(facts["per_class"])) == shown
        assert "test loss" in evaluation_text(facts)


def test_only_places_that_exist_are_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints/best.ckpt"
    best.touch()
    (tmp_path / "facts.json").touch()
    assert places_text(tmp_path, str(best)).splitlines() == [
        f"run folder       {tmp_path}",
        f"best checkpoint  {best}",
        f"facts.json       {tmp_path}/facts.json",
    ]


def test_without_a_best_checkpoint_the_last_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    assert f"{tmp_path}/checkpoints/last.ckpt" in places_text(tmp_path, "")
