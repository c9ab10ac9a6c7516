"""One run, one folder: its name, and what is written into it before the first step."""

import functools
import json
import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from frostline.commands.schema.paths import absolute
from frostline.storage.atomic import write_text

COMMAND_VARIABLE = "FROSTLINE_COMMAND"
CONFIG, OVERRIDES, FACTS = "config.yaml", "overrides.yaml", "facts.json"


@functools.cache
def run_key() -> str:
    """The run folder's name: the same on every process of a run, never derived from the clock on each of them.

    RUN_ID; else SLURM's array or job id, which a requeued job keeps; else torchelastic's id; else the time and a random
    suffix, so that two runs started in the same second do not meet.
    """
    env = os.environ
    if env.get("RUN_ID"):
        return env["RUN_ID"]
    if "SLURM_PROCID" in env:
        if "SLURM_ARRAY_JOB_ID" in env:
            return f"slurm-{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        return f"slurm-{env['SLURM_JOB_ID']}"
    if env.get("TORCHELASTIC_RUN_ID", "none") != "none":
        return f"elastic-{env['TORCHELASTIC_RUN_ID']}"
    return f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"


def register_resolvers() -> None:
    """What conf/train.yaml names the run folder with."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("frostline.run_key", run_key, replace=True)
    OmegaConf.register_new_resolver("frostline.path", absolute, replace=True)


def prepare(folder: Path, settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Write the resolved config and the overrides into the run folder."""
    from omegaconf import OmegaConf

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(settings))))
    write_text(folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))) if overrides else "[]\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config that `prepare` wrote."""
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Merge facts into the run's facts.json."""
    path = folder / FACTS
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json.dumps({**known, **facts}, indent=2) + "\n")


def command_line() -> str:
    """What was typed, to be typed again; a process that `ranks.start` made is told by its environment."""
    words = sys.orig_argv
    if Path(sys.argv[0]).name == "frostline":  # the script that pip made, run by the interpreter
        words = ["frostline", *words[2:]]
    return os.environ.get(COMMAND_VARIABLE) or shlex.join([Path(words[0]).name, *words[1:]])
