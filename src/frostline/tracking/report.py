"""The texts of a run's results."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from frostline.metrics import per_class
from frostline.storage import run_files
from frostline.storage.names import printable_name
from frostline.tables import as_text, new_table

# Names of the evaluation metrics as a table shows them, and whether they are shares.
METRICS: Mapping[str, tuple[str, bool]] = {
    "accuracy": ("accuracy", True),
    "accuracy_top5": ("accuracy, top 5", True),
    "f1": ("macro F1", True),
    "calibration_error": ("calibration error", True),
    "loss": ("loss", False),
}
CLASS_COLUMNS = ("class", "images", "precision", "recall", "F1")
# Rows of the table of classes at most; with more classes they are in facts.json alone.
MOST_CLASSES = 20


def evaluation_facts(results: Mapping[str, float], confusion: Tensor | None, classes: Sequence[str]) -> dict[str, Any]:
    """One evaluation as plain values: the metrics, a row for each class, the confusion matrix (true, predicted).

    Of very many classes, the metrics alone.
    """
    if confusion is None:
        return {"results": dict(results)}
    return {
        "results": dict(results),
        "per_class": per_class(confusion, classes),
        "confusion": confusion.tolist(),
    }


def evaluation_text(facts: Mapping[str, Any]) -> str:
    """The tables of `evaluation_facts`, and what needs no network."""
    parts = [metrics_table(facts["results"]), class_table(facts.get("per_class", ())), comparison(facts)]
    return "\n\n".join(part for part in parts if part)


def comparison(facts: Mapping[str, Any]) -> str:
    """The accuracies of guessing and of the largest class alone, and whether the network's is higher."""
    images = [row["images"] for row in facts.get("per_class", ())]
    accuracy = next((value for name, value in facts["results"].items() if name.endswith("/accuracy")), None)
    if accuracy is None or not any(images):
        return ""
    largest = max(images) / sum(images)
    text = f"without a network: {100 / len(images):.1f} % by guessing, {100 * largest:.1f} % by the largest class alone"
    higher = round(accuracy * sum(images)) > max(images)  # counts: the accuracy is rounded to float32
    return text if higher else f"{text}; this network is no better, so it has learned nothing of use"


def places_text(folder: Path, best: str) -> str:
    """The paths of a run's files."""
    places = [("run folder", folder), ("best checkpoint", Path(best) if best else run_files.last_checkpoint(folder))]
    names = (run_files.METRICS, run_files.FACTS, run_files.DATA, run_files.CONFIG, run_files.LOG)
    places += [(name, folder / name) for name in names]
    return "\n".join(f"{name:<16} {path}" for name, path in places if path.exists())


def metrics_table(results: Mapping[str, float]) -> str:
    """The metrics of one evaluation, named `split/metric`."""
    return _rendered(("metric", "value"), metric_rows(results))


def metric_rows(results: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The name of each metric and its value, as tables show them."""
    for name, value in results.items():
        split, _, metric = name.partition("/")
        title, share = METRICS.get(metric, (metric, False))
        yield f"{split} {title}", f"{100 * value:.2f} %" if share else f"{value:.4f}"


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Precision, recall and F1 of each class; empty without classes and beyond `MOST_CLASSES` of them."""
    if not 0 < len(rows) <= MOST_CLASSES:
        return ""
    return _rendered(CLASS_COLUMNS, map(class_row, rows))


def class_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of `per_class` under `CLASS_COLUMNS`."""
    shares = (f"{100 * row[name]:.1f} %" for name in ("precision", "recall", "f1"))
    return row["class"], f"{row['images']:,}", *shares


def _rendered(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = new_table(*columns)
    for row in rows:
        table.add_row(*map(printable_name, row))
    return as_text(table, width=100)
