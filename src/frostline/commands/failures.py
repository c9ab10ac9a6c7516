"""How a command ends when something is wrong: one message for a user's mistake, exit code 2, no traceback."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from frostline.commands.arguments import with_keys
from frostline.commands.terminal import shown

USER_ERROR = 2
INTERRUPTED = 130
INTERRUPTIONS = (INTERRUPTED, 143)  # by SIGINT, SIGTERM
# What a user can fix: a wrong value, a missing file, a loss that went to infinity.
# An OSError is about a path or an address that the user named, or a full disk.
USER_MISTAKES = (ValueError, OSError, FloatingPointError)

Config = TypeVar("Config")


def message_of(error: Exception) -> str:
    """The error's message, with keys for arguments and without the number that an OSError puts before it."""
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_working_directory():
        return "The working directory has been removed. Go to another one: cd DIR"
    if isinstance(error, OSError) and error.strerror:
        name = f": {error.filename}" if error.filename is not None else ""
        return shown(with_keys(f"{error.strerror}{name}"))
    return shown(with_keys(str(error)))


def _has_working_directory() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def explained(run: Callable[[Config], None]) -> Callable[[Config], None]:
    """Let a command's user mistakes end in one message."""

    @functools.wraps(run)
    def wrapper(config: Config) -> None:
        try:
            run(config)
        except BrokenPipeError:  # the output has no reader: see `main`
            raise
        except USER_MISTAKES as error:
            print(f"frostline: {message_of(error)}", file=sys.stderr)
            raise SystemExit(USER_ERROR) from None

    return wrapper


class Failed(SystemExit):
    """Exit code 2, after a message was printed."""

    def __init__(self, message: str) -> None:
        super().__init__(USER_ERROR)
        self.message = message


def fail(problems: Sequence[str]) -> NoReturn:
    """Print what is wrong, one line a problem, and end with exit code 2."""
    count = f"{len(problems)} problems:" if len(problems) > 1 else "frostline:"
    text = "\n".join(f"  {problem}" if len(problems) > 1 else problem for problem in problems)
    text = shown(text)
    print(f"{count}{chr(10) if len(problems) > 1 else ' '}{text}", file=sys.stderr)
    raise Failed(" ".join(map(shown, problems)))


def close_stdout() -> NoReturn:
    """End quietly when the reader of the output has stopped, as in `--help | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)
