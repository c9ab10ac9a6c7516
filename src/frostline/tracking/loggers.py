"""Loggers that write into the run folder."""

import csv
import importlib.util
import io
import os
import secrets
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from frostline.storage.atomic import write_text
from frostline.tracking.wandb_access import OFFLINE

WANDB_ID = "wandb_id.txt"
WANDB_INIT_SECONDS = 30  # until a run has to have begun; wandb's own limit is 90


class MetricsFile(CSVLogger):
    """metrics.csv in the run folder; a run resumed in the same folder goes on with it.

    Lightning's own logger deletes the file that it finds. The config is not written again: config.yaml is beside it.
    Each row is in the file as soon as it is logged, so that a checkpoint is never ahead of it.

    Args:
        first_step: the step that a resumed run takes first; rows of it and later ones are removed, as the run logs them
            again.
    """

    def __init__(self, folder: Path, *, first_step: int | None = None) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
        self.first_step = first_step

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _ContinuedWriter(self.log_dir, self.first_step)
        assert isinstance(self._experiment, ExperimentWriter)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml holds them."""


class _ContinuedWriter(ExperimentWriter):
    """Goes on with the file that is there.

    A checkpoint of step N may be of before or after the validation that is logged under step N - 1. Where a resumed run
    logs it again, its row takes the place of the one that is there.
    """

    def __init__(self, log_dir: str, first_step: int | None) -> None:
        super().__init__(log_dir)
        self._last_step = None if first_step is None else first_step - 1
        rows = self._read()
        self._earlier = len(rows)  # rows that the run before wrote
        if first_step is not None:
            self._keep(lambda row: int(row["step"]) < first_step)

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if step is not None and step == self._last_step:
            names = {*metrics_dict, "step"}
            self._keep(lambda row: row["step"] != str(step) or {key for key, value in row.items() if value} != names)
        super().log_metrics(metrics_dict, step)

    def _read(self) -> list[dict[str, str]]:
        path = Path(self.metrics_file_path)
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, self.metrics_keys = list(reader), list(reader.fieldnames or [])
        return rows

    def _keep(self, kept: Callable[[Mapping[str, str]], bool]) -> None:
        """Remove the other rows of the run before."""
        found = self._read()
        earlier = [row for row in found[: self._earlier] if kept(row)]
        if len(earlier) == self._earlier:
            return
        rows, self._earlier = [*earlier, *found[self._earlier :]], len(earlier)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics_file_path, text.getvalue())

    def _check_log_dir_exists(self) -> None:
        """Nothing: Lightning's would delete the file."""


def build_loggers(
    loggers: Mapping[str, Any], *, folder: Path, settings: Mapping[str, Any], first_step: int | None = None
) -> list[Logger]:
    """The chosen loggers, each given the resolved config as a nested dictionary.

    Args:
        loggers: maps `csv`, `tensorboard`, `wandb` to their options.
        first_step: the step that a resumed run takes first; what is logged there of it and later ones gives way.

    Raises:
        ValueError: TensorBoard is not installed; a W&B run could not be started.
    """
    built: list[Logger] = []
    if "csv" in loggers:
        built.append(MetricsFile(folder, first_step=first_step))
    if "tensorboard" in loggers:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "logger.tensorboard: the package tensorboard is not installed. Type `pip install tensorboard`, or "
                "choose logger=csv."
            )
        tensorboard = TensorBoardLogger(
            save_dir=folder, name="", version="tensorboard", default_hp_metric=False, purge_step=first_step
        )
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
