"""Loggers that write into the run folder."""

import csv
import importlib.util
import os
import secrets
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from frostline.tracking.wandb_access import OFFLINE

WANDB_ID = "wandb_id.txt"
WANDB_INIT_SECONDS = 30  # until a run has to have begun; wandb's own limit is 90


class MetricsFile(CSVLogger):
    """metrics.csv in the run folder; a run resumed in the same folder appends to it.

    Lightning's own logger deletes the file that it finds. The config is not written again: config.yaml is beside it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _ContinuedWriter(self.log_dir)
        assert isinstance(self._experiment, ExperimentWriter)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml holds them."""


class _ContinuedWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.exists():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])


def build_loggers(loggers: Mapping[str, Any], *, folder: Path, settings: Mapping[str, Any]) -> list[Logger]:
    """The chosen loggers, each given the resolved config as a nested dictionary.

    `loggers` maps `csv`, `tensorboard`, `wandb` to their options.

    Raises:
        ValueError: TensorBoard is not installed; a W&B run could not be started.
    """
    built: list[Logger] = []
    if "csv" in loggers:
        built.append(MetricsFile(folder))
    if "tensorboard" in loggers:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "logger.tensorboard: the package tensorboard is not installed. Type `pip install tensorboard`, or "
                "choose logger=csv."
            )
        tensorboard = TensorBoardLogger(save_dir=folder, name="", version="tensorboard", default_hp_metric=False)
        tensorboard.log_hyperparams(dict(settings))  # hparams.yaml beside the events, which TensorBoard does not show
        as_code = textwrap.indent(yaml.safe_dump(dict(settings), sort_keys=False), "    ")
        tensorboard.experiment.add_text("config", as_code)
        built.append(tensorboard)
    if "wandb" in loggers:
        built.append(_wandb_logger(loggers["wandb"], folder=folder, settings=settings))
    return built


def _wandb_logger(options: Mapping[str, Any], *, folder: Path, settings: Mapping[str, Any]) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    # Chosen once and kept in the run folder, so that a run resumed there stays one run on the dashboard.
    id_file = folder / WANDB_ID
    if not id_file.exists() and getattr(rank_zero_only, "rank", 0) == 0:  # the other ranks start no W&B run
        id_file.write_text(secrets.token_hex(4) + "\n")
    logger = WandbLogger(
        project=options["project"],
        entity=options["entity"],
        name=options["name"] or folder.name,
        group=options["group"],
        tags=options["tags"],
        offline=options["offline"],
        save_dir=folder,
        id=id_file.read_text().strip() if id_file.exists() else None,
        resume="allow",
        config=dict(settings),
        log_model=False,
        settings=wandb.Settings(init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", WANDB_INIT_SECONDS))),
    )
    try:
        logger.experiment  # noqa: B018 - the run begins now, so that a refusal comes before the training
    except wandb.Error as error:
        raise ValueError(
            f"logger.wandb: no run could be started ({error}). To train all the same, {OFFLINE}."
        ) from error
    return logger
