"""The command that was typed, to be typed again: for the facts of a run and to go on after an interruption."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from frostline.commands.launcher import launched_outside
from frostline.commands.quoting import override_text, shell_text, shell_words
from frostline.config.commands import TrainConfig
from frostline.config.secret_values import MARK, hidden, hide, marked
from frostline.storage.run_files import run_folder_of
from frostline.trust import needs_trust

COMMAND_VARIABLE = "FROSTLINE_COMMAND"
SWEEP_VARIABLE = "FROSTLINE_SWEEP"


def command_line() -> str:
    """What was typed, for a shell."""
    return shell_text(*map(hide, _typed()))


def command_to_go_on(checkpoint: Path, config: TrainConfig) -> str:
    """What to type after an interruption: the run's folder, whose checkpoint has the config.

    Of a sweep, the same command, which finds its own folder.
    """
    if sweep_folder() is not None:
        words = [hide(word) for word in _typed()]
    else:
        settings = config.as_dict()
        words = [word for word in _typed() if not _sets_a_key(word)]
        words.append(override_text("resume_from", _from_here(run_folder_of(checkpoint) or checkpoint)))
        words += [override_text(key, MARK) for key in marked(hidden(settings))]
        if needs_trust(settings):
            words.append("trust_checkpoint=true")
    text = shell_text(*words)
    return f"{text}  # with the password or token in place of {MARK}" if MARK in text else text


def _sets_a_key(word: str) -> bool:
    """Whether a word of the command line is an override, not the program, a launcher's word or an option."""
    key = word.partition("=")[0].lstrip("+~").partition("@")[0].partition(".")[0].partition("/")[0]
    return word[:1] in "+~" or ("=" in word and key in (*TrainConfig.model_fields, *TrainConfig.selectors, "hydra"))


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def command_of_job(swept: Mapping[str, str]) -> str:
    """What to type to run one job of this sweep alone.

    Args:
        swept: the keys in which the jobs differ, with the job's values as they are typed.
    """
    swept_now = {*swept, "-m", "--multirun", "hydra.mode"}
    words = [hide(word) for word in _typed() if word.partition("=")[0].lstrip("+~") not in swept_now]
    return shell_text(*words, *(f"{key}={value}" for key, value in swept.items()))


def sweep_folder() -> Path | None:
    """The folder of the sweep that this process runs a job of."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if SWEEP_VARIABLE in os.environ:
        return Path(os.environ[SWEEP_VARIABLE])
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).resolve()


def for_workers() -> dict[str, str]:
    """The environment by which a process that `ranks.start` makes knows what was typed."""
    sweep = sweep_folder()
    return {COMMAND_VARIABLE: command_line()} | ({} if sweep is None else {SWEEP_VARIABLE: str(sweep)})


def _typed() -> list[str]:
    if COMMAND_VARIABLE in os.environ:
        return shell_words(os.environ[COMMAND_VARIABLE])
    env, words = os.environ, list(sys.orig_argv)
    if "TORCHELASTIC_RUN_ID" in env and (launch := _torchrun()):
        return launch
    if Path(sys.argv[0]).name == "frostline":  # the script that pip made, run by the interpreter
        words = ["frostline", *words[words.index(sys.argv[0]) + 1 :]]
    else:
        words[0] = _program(words[0])
    if "TORCHELASTIC_RUN_ID" not in env and launched_outside() and env.get("SLURM_NTASKS", "1") != "1":
        words = ["srun", f"--nodes={env.get('SLURM_NNODES', 1)}", f"--ntasks={env['SLURM_NTASKS']}", *words]
    return words


def _torchrun() -> list[str]:
    """What torchrun, the parent of this process, was called with; empty where the system does not show it."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    except OSError:
        return []
    if words[-1:] != sys.orig_argv[-1:]:
        return []
    if Path(words[1]).name == "torchrun":  # the script that pip made, run by the interpreter
        return ["torchrun", *words[2:]]
    return [_program(words[0]), *words[1:]]


def _program(path: str) -> str:
    """The name alone where a shell finds this very program by it."""
    name = Path(path).name
    found = shutil.which(name)
    return name if found is not None and Path(found).resolve() == Path(path).resolve() else path
