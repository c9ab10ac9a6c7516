"""The entry: `python train.py …` and `frostline COMMAND …`. Imports no torch until a config has been found sound."""

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from frostline.commands.failures import INTERRUPTED, INTERRUPTIONS, USER_ERROR, fail, message_of
from frostline.commands.leaving import leaving_at_once
from frostline.commands.terminal import show_only_printable

COMPLETION = ("-sc", "--shell-completion")
SHELLS = ("bash", "zsh", "fish")


def program(command: str | None = None) -> None:
    """`main` as a process of its own: what train.py and `frostline` are."""
    with leaving_at_once():
        show_only_printable()
        main(command)


def main(command: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Run a command; without one, the first argument names it. Ends by SystemExit where something is wrong."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(command, given)
    except BrokenPipeError:
        _close_stdout()
    except OSError as error:  # of a path that was typed, before a command has it: too long, or in a closed folder
        fail([message_of(error)])
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _run(command: str | None, given: list[str]) -> None:
    from frostline.config.commands import COMMANDS

    if command is None:
        if not given or given[0] in ("--help", "-h", "help"):
            from frostline.commands.help import overview

            print(overview())
            return
        if given[0] == "--version":
            from importlib.metadata import version

            print(f"frostline {version('frostline')}")
            return
        command = _completed_command(COMMANDS) if given[0] in COMPLETION else given.pop(0)
        if command is None:
            return
        if command not in COMMANDS:
            from frostline.config.validation import unknown_choice

            fail([unknown_choice("frostline", command, list(COMMANDS)).replace("frostline=", "frostline ")])
    if "--help" in given or "-h" in given:
        from frostline.commands.help import command_help

        print(command_help(command))
        return
    run_hydra(command, given)


def _completed_command(commands: Iterable[str]) -> str | None:
    """The command on the line that a shell asks to complete, taken out of that line; None where it is itself to be
    completed, after printing the choices. Hydra's scripts call the program alone and know no commands."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if not line:  # install or uninstall, the same for all commands
        return "train"
    if len(words) + line[-1].isspace() > 2:
        os.environ["COMP_LINE"] = " ".join([words[0], *line.split(maxsplit=2)[2:]]) + " " * (len(words) == 2)
        return words[1] if words[1] in commands else None
    print("\n".join(commands))
    return None


def _refuse_option(message: str) -> NoReturn:
    """In place of argparse's report, which lists Hydra's options and no key."""
    from frostline.config.guesses import GUESSES

    words = message.removeprefix("unrecognized arguments: ").split()
    if not words[0].startswith("-"):
        fail([f"{message}. --help lists all options and keys."])
    problems = []
    for word in words:
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        typed = GUESSES.get(name, (name,))[0]
        typed = typed if "=" in typed else f"{typed}=VALUE"
        problems.append(f"{word}: unknown option. Keys are typed without dashes: {typed}")
    fail(problems)


def _close_stdout() -> NoReturn:
    """End quietly when the reader of the output has stopped, as in `--help | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def run_hydra(command: str, given: list[str]) -> None:
    """Check the command line, then let Hydra compose the config and call the command with it."""
    import hydra
    from hydra._internal.utils import get_args_parser
    from omegaconf import DictConfig

    from frostline.commands import config_files, sweep
    from frostline.commands.imports import quick_imports
    from frostline.commands.overrides import (
        RUN_FOLDERS,
        Invocation,
        adapted,
        problems_of,
        resolved,
        run_folder_of,
        unswept,
    )
    from frostline.commands.quoting import override_text
    from frostline.commands.ranks import global_rank, launched_outside, outside_world
    from frostline.config import secret_values
    from frostline.config.commands import COMMANDS, config_of
    from frostline.config.paths import absolute
    from frostline.config.validation import validate
    from frostline.storage.atomic import output_problem

    # Intermixed: Hydra itself wants all flags before or after the overrides.
    parser = get_args_parser()
    parser.error = _refuse_option
    flags = parser.parse_intermixed_args(given)
    config_dir = Path(absolute(flags.config_dir)) if flags.config_dir else None
    config_files.register(config_dir)
    overrides = adapted(flags.overrides)
    secret_values.remember(dict(override.partition("=")[::2] for override in flags.overrides))
    invocation = Invocation(command=command, overrides=overrides, config_dir=config_dir)
    actions = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(flags, name)]
    if len(actions) > 1:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in actions)
        fail([f"{words}: take one of them. A config is shown of one run, with one value for each key."])
    only_shown = flags.shell_completion or flags.hydra_help or flags.info
    if flags.shell_completion:
        action, _, shell = (flags.overrides or [""])[0].partition("=")
        if action not in ("install", "uninstall", "query") or shell not in SHELLS:
            fail([f"{COMPLETION[0]}: takes install=SHELL or uninstall=SHELL, with {', '.join(SHELLS)} for SHELL."])
        if action == "query":
            sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - an unfinished line is no mistake to report
    sweeps = flags.multirun or "hydra.mode=MULTIRUN" in overrides
    if launched_outside() and not (only_shown or flags.cfg):
        # Each process would start the sweep for itself; and one process is enough for a command that does not train.
        if command != "train" and global_rank() > 0:
            return
        if outside_world() != (1, 1) and sweeps:
            if global_rank() == 0:
                fail(["-m: start a sweep without torchrun or srun; device.devices=N trains each job on N processes."])
            raise SystemExit(USER_ERROR)
    if not only_shown:
        if config_dir is not None and str(config_dir) not in sys.path:
            # Classes of the user's own often lie beside their configs.
            sys.path.insert(0, str(config_dir))
        problems = ([] if sweeps else unswept(overrides)) + problems_of(invocation, COMMANDS[command])
        if problems:
            fail(problems)
    hydras = any(word.lstrip("+").startswith("hydra.") for word in overrides)
    if (config_dir is not None or "RUN_ID" in os.environ or hydras) and not (only_shown or flags.cfg):
        # Hydra makes the folder, takes ~ for a name, and would print a traceback.
        key = RUN_FOLDERS[1 if sweeps else 0]
        try:
            named = run_folder_of(invocation, key=key)
            folder = absolute(named)
        except ValueError as error:
            fail([str(error)])
        problem = output_problem(folder, folder=True) if command == "train" and global_rank() == 0 else None
        if problem:
            fail([f"The run folder {problem}"])
        if named.startswith("~"):
            overrides = [*overrides, override_text(key, folder)]
    if global_rank() > 0 and not (only_shown or flags.cfg):
        from frostline.commands.train import join

        join(invocation)
        return

    failed: dict[sweep.Job, object] = {}
    process = os.getpid()

    def job(config: DictConfig) -> None:
        settings = resolved(config)
        this = sweep.this_job(overrides)
        try:
            if problems := validate(COMMANDS[command], settings):  # of a job beyond those checked above
                fail(problems)
            typed = sweep.with_own_checkpoint(config_of(COMMANDS[command].config, settings), this)
            with quick_imports():
                # Found by name, as each command pulls in torch.
                run = importlib.import_module(f"frostline.commands.{command}").run
            run(typed)
        except BrokenPipeError:  # here, as Hydra would print a traceback
            _close_stdout()
        except SystemExit as end:
            if this is None or end.code in INTERRUPTIONS or os.getpid() != process:  # another launcher's process
                raise
            failed[this] = end.code

    options = [word for word in given if word not in flags.overrides]
    if config_dir is not None:
        options += ["--config-dir", str(config_dir)]  # the last one counts
    sys.argv = [sys.argv[0], *options, *overrides]
    hydra.main(version_base="1.3", config_path="pkg://frostline.conf", config_name=command)(job)()
    if failed:
        print(f"frostline: {len(failed)} of the sweep's jobs failed: {'; '.join(map(str, failed))}.", file=sys.stderr)
        raise SystemExit(next(iter(failed.values())))
