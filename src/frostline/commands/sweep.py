"""The jobs of a sweep, and one that goes on where another was interrupted: each job has its own checkpoint there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ValueType

from frostline.commands.failures import fail
from frostline.commands.quoting import parsed
from frostline.config.commands import TrainConfig
from frostline.config.groups import CommandConfig
from frostline.config.section import Section
from frostline.storage.run_files import OVERRIDES, last_checkpoint


@dataclass(frozen=True, kw_only=True)
class Job:
    """One of a sweep's jobs.

    number: counted from 0, the name of its folder; what is printed counts from 1.
    swept: the overrides in which the jobs differ.
    """

    number: int
    swept: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.number + 1} ({' '.join(self.swept)})"


def this_job(typed: Sequence[str]) -> Job | None:
    """The job that Hydra runs now; None where nothing is swept.

    Args:
        typed: the command line's overrides, each with all of its values.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config = HydraConfig.get()
    if config.mode != RunMode.MULTIRUN:
        return None
    read = [override for text in typed if (override := parsed(text))]
    keys = {str(override.get_key_element()) for override in read if override.is_sweep_override()}
    keys.update(config.sweeper.get("params") or {})
    own = tuple(word for word in config.overrides.task if word.partition("=")[0] in keys)
    return Job(number=config.job.num, swept=own)


def number_of_jobs(typed: Sequence[str]) -> int | None:
    """How many jobs Hydra makes of the command line and the config; None where only a sweeper plugin knows."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.hydra_config import HydraConfig

    sweeper = HydraConfig.get().sweeper
    if not str(sweeper.get("_target_")).endswith(BasicSweeper.__name__):
        return None
    words = [*typed, *(f"{key}={value}" for key, value in (sweeper.get("params") or {}).items())]
    swept = [override for word in words if (override := parsed(word)) and override.is_sweep_override()]
    if any(override.value_type is ValueType.GLOB_CHOICE_SWEEP for override in swept):
        return None
    return math.prod(len(list(override.sweep_string_iterator())) for override in swept)


def from_own_checkpoint(config: CommandConfig, folder: Path) -> CommandConfig:
    """The config of a job in the folder in which an earlier sweep of the same command began it."""
    last = last_checkpoint(folder)
    return config.model_copy(update=_resumed_from(last)) if last.is_file() else config


def _resumed_from(checkpoint: Path) -> dict[str, Any]:
    return {"resume_from": str(checkpoint), "init_from": None, "on_policy_change": "refuse"}


def with_own_checkpoint(config: Section, job: Job | None) -> Section:
    """The config of a job, its `resume_from` no longer the folder of an interrupted sweep.

    The job of the same swept values is looked for there, and where that sweep itself had gone on from. A job that
    was finished is resumed at its last step, and one that had not begun starts as the first sweep's jobs did.
    """
    if not isinstance(config, TrainConfig):
        return config
    source = config.resume_from
    if source is None or not Path(source).is_dir():
        return config
    if job is None:
        fail([f"resume_from: `{source}` is a folder. Name a checkpoint in it, such as checkpoints/last.ckpt."])
    seen = []
    while source is not None and Path(source).is_dir() and source not in seen:
        jobs = {file.parent: _overrides(file) for file in sorted(Path(source).glob(f"*/{OVERRIDES}"))}
        if not jobs:
            fail([f"resume_from: `{source}` is no folder of a sweep. Name one, or a checkpoint."])
        for folder, overrides in jobs.items():
            checkpoint = last_checkpoint(folder)
            if set(job.swept) <= set(overrides) and checkpoint.is_file():
                return config.model_copy(update=_resumed_from(checkpoint))
        seen.append(source)
        source = next((_value(word) for word in overrides if word.startswith("resume_from=")), None)
    return config.model_copy(update={"resume_from": None if source in seen else source})


def _overrides(file: Path) -> list[str]:
    import yaml

    return [str(override) for override in yaml.safe_load(file.read_text(encoding="utf-8"))]


def _value(text: str) -> Any:
    override = parsed(text)
    return None if override is None else override.value()
