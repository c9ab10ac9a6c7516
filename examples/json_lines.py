"""A logger of your own: a lightning.pytorch.loggers.Logger; `save_dir` is the run folder."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class JsonLines(Logger):
    """Metrics as one JSON object a line."""

    def __init__(self, save_dir: Path, file: str = "metrics.jsonl") -> None:
        super().__init__()
        self.path = save_dir / file

    name = version = None

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, **metrics}) + "\n")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: config.yaml holds them."""
