"""Loggers write into the run folder, and go on there."""

import csv
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import WandbLogger

from frostline.tracking.loggers import WANDB_ID, MetricsFile, build_loggers

SETTINGS = {
    "seed": 0,
    "optimizer": {"name": "sgd", "lr": 0.05, "exclude_from_decay": []},
    "freeze": {"train": ["head"]},
}
WANDB = {"project": "frostline", "entity": None, "name": None, "group": None, "tags": ["a"], "offline": True}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# CSV


def test_metrics_lie_right_in_the_run_folder(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"train/loss": 2.0}, step=1)
    logger.save()
    assert rows(tmp_path) == [{"step": "1", "train/loss": "2.0"}]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_metrics_are_continued_in_the_same_folder_with_new_columns(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path)
    first.log_metrics({"train/loss": 2.0, "lr": 0.1}, step=1)
    first.save()
    second = MetricsFile(tmp_path)
    second.log_metrics({"train/loss": 1.0}, step=2)
    second.save()
    second.log_metrics({"val/accuracy": 0.5}, step=2)
    second.save()
    assert [[row[key] for key in ("step", "lr", "train/loss", "val/accuracy")] for row in rows(tmp_path)] == [
        ["1", "0.1", "2.0", ""],
        ["2", "", "1.0", ""],
        ["2", "", "", "0.5"],
    ]


def test_the_config_is_not_written_a_second_time(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    logger.log_hyperparams(SETTINGS)
    logger.log_metrics({"train/loss": 2.0}, step=1)
    logger.save()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


# Several, or none


def test_the_chosen_loggers_are_built(tmp_path: Path) -> None:
    assert build_loggers({}, folder=tmp_path, settings=SETTINGS) == []
    loggers = build_loggers({"csv": {}, "tensorboard": {}}, folder=tmp_path, settings=SETTINGS)
    assert [type(logger).__name__ for logger in loggers] == ["MetricsFile", "TensorBoardLogger"]
    loggers[1].finalize("success")  # its thread would write into the folder later


# TensorBoard


# tensorboard's own reader, on protobuf's C extension under Python 3.12 and later
@pytest.mark.filterwarnings("ignore:Type google.*uses PyType_Spec:DeprecationWarning")
def test_tensorboard_files_hold_the_scalars_and_the_config(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [logger] = build_loggers({"tensorboard": {}}, folder=tmp_path, settings=SETTINGS)
    for step, value in ((1, 2.0), (2, 1.5)):
        logger.log_metrics({"train/loss": value}, step=step)
    logger.save()
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.5)]
    [shown] = events.Tensors("config/text_summary")
    assert yaml.safe_load(textwrap.dedent(shown.tensor_proto.string_val[0].decode())) == SETTINGS
    assert yaml.safe_load((tmp_path / "tensorboard/hparams.yaml").read_text()) == SETTINGS


# Weights & Biases


def test_a_wandb_run_is_written_offline_with_its_nested_config(tmp_path: Path) -> None:
    folder = tmp_path / "2026-11-23_run"
    folder.mkdir()
    script = """
        import json, sys
        from pathlib import Path
        import wandb
        from frostline.tracking.loggers import build_loggers

        folder, settings, options = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
        [logger] = build_loggers({"wandb": options}, folder=folder, settings=settings)
        logger.log_metrics({"train/loss": 2.0}, step=1)
        logger.log_metrics({"train/loss": 1.5}, step=2)
        wandb.finish()
    """
    # In a process of its own: W&B starts a service and handlers that outlive a test.
    words = [sys.executable, "-c", textwrap.dedent(script), str(folder), json.dumps(SETTINGS), json.dumps(WANDB)]
    # On a loaded machine W&B's service takes longer to start than the 30 s that it is given by default.
    patient = {**os.environ, "WANDB__SERVICE_WAIT": "300"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=patient)
    assert done.returncode == 0, done.stderr
    [run] = (folder / "wandb").glob("offline-run-*")
    summary = inspected(run)
    assert summary["config"] == SETTINGS
    assert (summary["project"], summary["name"], summary["tags"]) == ("frostline", folder.name, ["a"])
    assert summary["summary"]["train/loss"] == 1.5
    assert (summary["state"], summary["run_id"]) == ("finished", (folder / WANDB_ID).read_text().strip())


def test_a_run_that_goes_on_in_its_folder_keeps_its_wandb_id(tmp_path: Path) -> None:
    versions = []
    for _ in range(2):
        [logger] = build_loggers({"wandb": WANDB}, folder=tmp_path, settings=SETTINGS)
        assert isinstance(logger, WandbLogger)
        versions.append((logger.version, logger._wandb_init["resume"]))
        logger.experiment.finish()
    assert versions[0] == versions[1] == ((tmp_path / WANDB_ID).read_text().strip(), "allow")
    (tmp_path / "other").mkdir()
    [other] = build_loggers({"wandb": WANDB}, folder=tmp_path / "other", settings=SETTINGS)
    assert other.version != versions[0][0]
    other.experiment.finish()


def inspected(folder: Path) -> dict[str, Any]:
    """What W&B's own reader finds in a run's folder."""
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run(
        [wandb, "leet", "inspect", "--summary", "--json", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
