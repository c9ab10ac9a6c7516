"""The entry: `python train.py …` and `frostline COMMAND …`. Imports no torch until a config has been found sound."""

import os
import sys
from collections.abc import Iterable, Sequence

from frostline.commands import openmp
from frostline.commands.failures import INTERRUPTED, close_stdout, fail, message_of
from frostline.commands.fast_exit import collect_rarely, fast_exit
from frostline.commands.terminal import show_only_printable

COMPLETION = ("-sc", "--shell-completion")


def program(command: str | None = None) -> None:
    """`main` as a process of its own: what train.py and `frostline` are."""
    collect_rarely()
    openmp.begin()
    with fast_exit():
        show_only_printable()
        main(command)


def main(command: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Run a command; without one, the first argument names it. Ends by SystemExit where something is wrong."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(command, given)
    except BrokenPipeError:
        close_stdout()
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
    from frostline.commands.running import run_command

    run_command(command, given)


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
