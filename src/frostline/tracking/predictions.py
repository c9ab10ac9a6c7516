"""Predictions for image files: the most probable classes, or why an image could not be read."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from frostline.data.prediction_files import ImageFiles
from frostline.data.spec import DataSpec
from frostline.storage.atomic import atomically
from frostline.storage.names import cell, printable_name, utf8_name
from frostline.tables import as_text, new_table
from frostline.tracking.report import MOST_CLASSES


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's most probable classes with their probabilities, most probable first; or the reason for none."""

    path: Path
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""

    def __str__(self) -> str:
        top = ", ".join(f"{printable_name(name)} {100 * share:.1f} %" for name, share in self.top)
        return f"{self.path}: {self.error or top}"


@torch.inference_mode()
def predict_files(
    probabilities: Callable[[Tensor], Tensor],
    paths: Sequence[Path],
    *,
    spec: DataSpec,
    top_k: int = 5,
    batch_size: int = 32,
) -> Iterator[Prediction]:
    """A prediction for each file, in order; a file that cannot be read gets its reason, and the rest go on.

    Args:
        probabilities: maps uint8 images (batch, 3, height, width) to (batch, classes) on the CPU.
        spec: of the data that the classifier was trained on.
    """
    files = ImageFiles(paths, spec=spec)
    classes = spec.classes
    top_k = min(top_k, len(classes))
    for items in DataLoader(files, batch_size=batch_size, collate_fn=list):
        read = [image for image, _, _ in items if image is not None]
        rows = iter(probabilities(torch.stack(read))) if read else iter(())
        for image, path, reason in items:
            if image is None:
                yield Prediction(path=Path(path), error=reason)
                continue
            row = next(rows)
            if not row.isfinite().all():
                yield Prediction(path=Path(path), error="the network's output is NaN or infinite")
                continue
            values, indices = row.topk(top_k)
            top = tuple((classes[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True))
            yield Prediction(path=Path(path), top=top)


def write_predictions(predictions: Iterable[Prediction], output: Path, *, top_k: int) -> Counter[str]:
    """Write the CSV atomically, in UTF-8; how many images were taken for each class, under "" those without one.

    Columns: path, class, probability, then class_2, probability_2, … up to `top_k`, and error. Names are written by
    `frostline.storage.names.utf8_name` and `cell`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    with atomically(output) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        places = ["", *(f"_{place}" for place in range(2, top_k + 1))]
        writer.writerow(["path", *(f"{name}{place}" for place in places for name in ("class", "probability")), "error"])
        for prediction in predictions:
            texts = [text for name, p in prediction.top for text in (name, f"{p:.6f}")]
            texts += [""] * (2 * top_k - len(texts))
            row = [str(prediction.path), *texts, prediction.error]
            writer.writerow([cell(utf8_name(text)) for text in row])
            counts[prediction.top[0][0] if prediction.top else ""] += 1
    return counts


def counts_table(counts: Mapping[str, int]) -> str:
    """How many images were taken for each class, the `MOST_CLASSES` most frequent ones."""
    table = new_table("predicted class", "images")
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    for name, count in ordered[:MOST_CLASSES]:
        table.add_row(printable_name(name), f"{count:,}")
    if rest := ordered[MOST_CLASSES:]:
        table.add_row(f"{len(rest):,} other classes", f"{sum(count for _, count in rest):,}")
    return as_text(table)
