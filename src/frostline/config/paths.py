"""The type of every key that holds a path: what `~` and `$HOME` mean, and where a relative path begins."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from frostline.storage.run_files import BEST, LAST, SWEEP, checkpoint_in


def absolute(path: str) -> str:
    """The path from the root, relative ones begun in the working directory; an address (s3://…) stays as it is.

    `~` and `~user` are home folders, `$NAME` at the beginning is an environment variable, where there is one.

    Raises:
        ValueError: there is no such user, hence no home folder.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        return path
    variable, slash, rest = path.partition("/")
    if path.startswith("$"):
        path = (os.environ.get(variable[1:]) or variable) + slash + rest
    try:
        place = Path(path).expanduser() if path.startswith("~") else Path(path)  # ./~ is a name
    except RuntimeError:
        raise ValueError(f"`{path}`: no user has this home folder; a folder named like this is ./{path}") from None
    try:
        whole = place.resolve()
        # A pipe's /dev/stdout leads to a name that cannot be opened.
        return str(place.absolute() if place.exists() and not whole.exists() else whole)
    except OSError as error:  # a name that is too long
        raise ValueError(f"`{path}`: {error.strerror}") from None
    except RuntimeError as error:  # links in a circle
        raise ValueError(f"`{path}`: {error}") from None


PATH = AfterValidator(absolute)
PathText = Annotated[str, Field(min_length=1), PATH]


def _checkpoint(*names: str) -> Callable[[str], str]:
    return lambda path: str(checkpoint_in(Path(path), names)) if Path(path).is_dir() else path


def to_go_on_from(path: str) -> str:
    """The checkpoint that a run folder stands for; a sweep's folder stays, as each job has its own checkpoint there.

    Raises:
        ValueError: a folder of another kind.
    """
    return path if (Path(path) / SWEEP).is_file() else _checkpoint(LAST, BEST)(path)


# A run folder stands for its checkpoint.
CHECKPOINT_KEYS = ("resume_from", "init_from", "checkpoint")
CheckpointText = Annotated[PathText, AfterValidator(_checkpoint(BEST, LAST))]
ResumeText = Annotated[PathText, AfterValidator(to_go_on_from)]
