"""frostline calibrate: a temperature for a checkpoint's probabilities, fitted on validation images and stored in it."""

from typing import Any

import lightning
import torch
from torch import Tensor

from frostline.calibration import fit_temperature, quality, temperature_text
from frostline.checkpoint import CHECKPOINT_KEY, read_checkpoint
from frostline.classifier import ImageClassifier
from frostline.commands.evaluate import classifier_of, data_of, evaluated
from frostline.commands.failures import explained
from frostline.commands.run_log import quiet_libraries
from frostline.config.commands import CalibrateConfig
from frostline.data.datamodule import ImageDataModule
from frostline.metrics import hard_labels
from frostline.storage.atomic import output_problem
from frostline.tables import as_text, new_table
from frostline.tracking.checkpoints import AtomicCheckpointIO

UNCERTAIN = 0.1  # standard error of a temperature, as a share of it, from which on a note says so


class KeptLogits(lightning.Callback):
    """Keeps the logits (images, classes) and the labels, int64 (images,), of an evaluation."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor]] = []

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._batches.append((outputs.float().cpu(), hard_labels(batch[-1]).cpu()))

    def all(self) -> tuple[Tensor, Tensor]:
        """Of all batches."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        return logits, labels


@explained
def run(config: CalibrateConfig) -> None:
    """Store the temperature, and print calibration error and NLL before and after; the weights stay as they are."""
    quiet_libraries()
    if problem := output_problem(config.checkpoint):
        raise ValueError(f"checkpoint: {problem}")
    classifier = classifier_of(config)
    data = data_of(config, classifier, "val")
    if data.images("val") is None:
        raise ValueError(
            "data: it has no val images, on which a temperature is fitted; name others, as data=image_folder"
        )
    splits = [split for split in ("val", "test") if data.images(split) is not None]
    data.check_images(splits)
    for line in data.notes:
        print(line)
    found = {"val": _logits(config, classifier, data, "val")}
    temperature, error = fit_temperature(*found["val"])
    if "test" in splits:
        found["test"] = _logits(config, classifier, data, "test")
    calibration = {
        "temperature": temperature,
        "standard_error": error,
        "results": {
            split: {
                "images": len(labels),
                "before": quality(logits, labels, temperature=1.0),
                "after": quality(logits, labels, temperature=temperature),
            }
            for split, (logits, labels) in found.items()
        },
    }
    checkpoint = read_checkpoint(config.checkpoint)
    checkpoint[CHECKPOINT_KEY]["calibration"] = calibration
    AtomicCheckpointIO().save_checkpoint(checkpoint, config.checkpoint)
    print(_text(calibration))
    print(f"stored in {config.checkpoint}: predict, explain, export and evaluate use it; the weights are as before")


def _logits(
    config: CalibrateConfig, classifier: ImageClassifier, data: ImageDataModule, split: str
) -> tuple[Tensor, Tensor]:
    kept = KeptLogits()
    evaluated(config, classifier, data, split, callbacks=[kept])
    return kept.all()


def _text(calibration: dict[str, Any]) -> str:
    temperature, error = calibration["temperature"], calibration["standard_error"]
    table = new_table("images", "", "calibration error", "NLL", left=("",))
    for split, found in calibration["results"].items():
        for when in ("before", "after"):
            seen = "fitted on them" if split == "val" else "not seen by the fit"
            name = f"{found['images']:,} {split} images, {seen}" if when == "before" else ""
            values = found[when]
            table.add_row(name, when, f"{100 * values['calibration_error']:.2f} %", f"{values['nll']:.4f}")
    lines = [as_text(table), f"{temperature_text(calibration)}; standard error {error:.2g}"]
    if error > UNCERTAIN * temperature:
        lines.append("note: so few images leave the temperature uncertain; more validation images would fix it better")
    return "\n".join(lines)
