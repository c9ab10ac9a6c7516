"""A Trainer for small fits on the CPU that prints and writes nothing of its own."""

from typing import Any

import lightning


def quiet_trainer(**options: Any) -> lightning.Trainer:
    """Lightning's Trainer without logger, checkpoints, bar and summary, unless `options` ask for them."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(**{"accelerator": "cpu", **quiet, **options})
