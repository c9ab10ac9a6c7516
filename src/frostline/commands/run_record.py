"""The callback that records a run in facts.json, and prints what it does first and what came of it last."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning
from lightning.pytorch.callbacks import Callback

from frostline.classifier import ImageClassifier
from frostline.commands.arguments import with_keys
from frostline.commands.resuming import Change
from frostline.commands.run_folder import write_facts
from frostline.data.datamodule import ImageDataModule
from frostline.data.report import DataReport, counts_line
from frostline.freezing.callback import FreezingSchedule
from frostline.models.weights import LoadedWeights
from frostline.storage.run_files import DATA
from frostline.tracking.report import evaluation_facts, evaluation_text, places_text
from frostline.tracking.throughput import Throughput, data_advice_for, speed_text

log = logging.getLogger("frostline")

Kind = TypeVar("Kind", bound=Callback)


class RunRecord(Callback):
    """Facts and log lines of a run: data and weights before its first step, freezing, speed and results after it.

    It is the first of a trainer's callbacks, so that nothing is logged before the plan.

    Args:
        folder: the run folder.
        weights: where the network's weights are from.
        changes: what a resumed run does differently from its checkpoint on.
        tests: whether a test comes after the fit.
    """

    def __init__(self, folder: Path, *, weights: LoadedWeights, changes: Sequence[Change], tests: bool) -> None:
        self.folder = folder
        self.weights = weights
        self.changes = changes
        self.tests = tests
        self._has_begun = False
        self._best = ""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._has_begun or not trainer.is_global_zero:
            return
        self._has_begun = True
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageDataModule)
        device = f"device: {trainer.accelerator.name()} × {trainer.world_size}, precision {trainer.precision}"
        log.info("%s", "\n".join([*self._data_lines(data), self.weights.summary(), device]))
        if self.weights.warning:
            log.warning("WARNING: %s\n", self.weights.warning)
        weights = {"source": self.weights.source, "warning": self.weights.warning}
        write_facts(self.folder, {"data": data.facts(), "weights": weights})
        for change in self.changes:
            log.info("resume_from: from here on another value: %s", change)

    def _data_lines(self, data: ImageDataModule) -> list[str]:
        """The report on the data, written into the run folder; a resumed run has it there already."""
        path = self.folder / DATA
        if path.is_file():
            return [counts_line(data)]
        report = DataReport(data)
        report.write(path)
        return with_keys("\n".join([*report.lines, f"complete report on the data: {path}"])).splitlines()

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Its teardown is the last one: the freezing schedule's compares the frozen tensors once more.
        trainer.callbacks = [*(other for other in trainer.callbacks if other is not self), self]  # type: ignore[attr-defined]

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, ImageClassifier)
        if stage == "fit":
            self._fitted(trainer, pl_module)
        else:
            results = {name: value.item() for name, value in trainer.logged_metrics.items()}
            facts = evaluation_facts(results, pl_module.confusion, pl_module.classes)
            write_facts(self.folder, facts)
            log.info("%s", evaluation_text(facts))
        if stage == "test" or not self.tests:
            log.info("%s", places_text(self.folder, self._best))

    def _fitted(self, trainer: lightning.Trainer, classifier: ImageClassifier) -> None:
        self._best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        reached = {"steps": trainer.global_step, "epochs": trainer.current_epoch, "best_checkpoint": self._best or None}
        facts: dict[str, Any] = {**reached, "freezing": _the(FreezingSchedule, trainer).verdict()}
        checkpoints: Any = trainer.checkpoint_callback
        if getattr(checkpoints, "best_model_score", None) is not None:
            score = float(checkpoints.best_model_score)
            facts["best"] = {"monitor": checkpoints.monitor, "mode": checkpoints.mode, "score": score}
        if features := classifier.feature_facts():
            facts["features"] = features
        if speed := _the(Throughput, trainer).facts():
            advice = data_advice_for(trainer, speed)
            facts["speed"] = {**speed, "advice": advice or None}
            log.info("%s", speed_text(speed, advice=advice))
        write_facts(self.folder, facts)


def _the(kind: type[Kind], trainer: lightning.Trainer) -> Kind:
    [found] = [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
    return found
