"""One run, one folder: its name, and what is written into it before the first step."""

import errno
import functools
import itertools
import json
import logging
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from frostline.commands.command_line import command_to_go_on
from frostline.config.commands import TrainConfig
from frostline.config.paths import absolute
from frostline.config.secret_values import hidden, hide
from frostline.storage.atomic import write_text
from frostline.storage.run_files import (
    CHECKPOINTS,
    CONFIG,
    FACTS,
    LOG,
    METRICS,
    OVERRIDES,
    PICTURES,
    SWEEP,
    last_checkpoint,
    run_folder_of,
)

LOCK = ".lock"

log = logging.getLogger("frostline")


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


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; a crash gives it back. The other processes of a run do not ask.

    Raises:
        ValueError: another run has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A lock of the process, not of the descriptor: loader workers that outlive a crash do not inherit it.
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise ValueError(
                    f"{folder}: is in use by another run ({file.read().strip()}). Wait for its end, or give this run a "
                    "folder of its own: another RUN_ID or output_dir."
                ) from None
            log.warning("%s: cannot be locked (%s); start no other run in it.", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


@contextmanager
def removed_where_refused(folder: Path) -> Iterator[None]:
    """Remove a claimed run folder in which a run was refused before its config was written; a sweep keeps its jobs'."""
    try:
        yield
    finally:
        found = {path.name for path in folder.iterdir()} if folder.is_dir() else {CONFIG}
        if found <= {LOG, LOCK} and not (folder.parent / SWEEP).is_file():
            shutil.rmtree(folder)


def continued(folder: Path, config: TrainConfig) -> TrainConfig:
    """The config of a training that overwrites no checkpoint from step 0.

    A job that SLURM or torchrun started again goes on from the folder's last checkpoint. What a finished run left is
    moved to a folder `earlier-1`, `earlier-2` and so on in the run folder.

    Raises:
        ValueError: the folder holds checkpoints of an unfinished run, and the config names none to go on from.
    """
    kept = sorted((folder / CHECKPOINTS).glob("*.ckpt"))
    if not kept or not config.fit or config.resume_from is not None:
        return config
    last = last_checkpoint(folder)
    restarts = (os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
    if last in kept and any(count not in ("", "0") for count in restarts):
        log.info("The job was started again and goes on from %s", last)
        return config.model_copy(update={"resume_from": str(last)})
    if _finished(folder):
        aside = next(aside for number in itertools.count(1) if not (aside := folder / f"earlier-{number}").exists())
        aside.mkdir()
        for name in (CHECKPOINTS, FACTS, CONFIG, OVERRIDES, METRICS, PICTURES):
            if (folder / name).exists():
                (folder / name).rename(aside / name)
        log.info("%s holds a finished run, whose checkpoints and facts are kept in %s", folder, aside)
        return config
    raise ValueError(
        f"{folder}: holds the checkpoints of an unfinished run, which a new run would overwrite. To go on with it: "
        f"{command_to_go_on(last if last in kept else kept[-1], config)} - for a new run, name another folder "
        "(RUN_ID, output_dir) or remove this one."
    )


def _finished(folder: Path) -> bool:
    """Whether the training in a run folder came to its end: its facts then hold its steps."""
    return "steps" in read_facts(folder)


def prepare(folder: Path, config: TrainConfig, overrides: Sequence[str]) -> None:
    """Write the resolved config and the overrides into the run folder, without secrets.

    A run that goes on in its folder adds its overrides to those that were typed before.
    """
    from omegaconf import OmegaConf

    if goes_on_in(folder, config):
        earlier = [str(word) for word in OmegaConf.load(folder / OVERRIDES)] if (folder / OVERRIDES).exists() else []
        own = {word.partition("=")[0]: word for word in overrides if word.partition("=")[0] != "resume_from"}
        overrides = [*(word for word in earlier if word.partition("=")[0] not in own), *own.values()]

    folder.mkdir(parents=True, exist_ok=True)
    sweep = folder.parent / SWEEP  # with all that was typed
    if sweep.is_file() and hide(text := sweep.read_text(encoding="utf-8")) != text:
        write_text(sweep, hide(text))
    write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(hidden(config.as_dict()))))
    write_text(
        folder / OVERRIDES,
        OmegaConf.to_yaml(OmegaConf.create([hide(override) for override in overrides])) if overrides else "[]\n",
    )


def goes_on_in(folder: Path, config: TrainConfig) -> bool:
    """Whether a run goes on in the folder of its checkpoint."""
    source = None if config.resume_from is None else run_folder_of(Path(config.resume_from))
    return source is not None and source.resolve() == folder.resolve()


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config that `prepare` wrote."""
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of the run in a folder; empty where there are none, or none that can be read."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Merge facts into the run's facts.json."""
    path = folder / FACTS
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json.dumps({**known, **hidden(facts)}, indent=2) + "\n")
