"""The types of the keys that hold a path: what `~` and `$HOME` mean, where a relative path begins, what lies there."""

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from frostline.storage.atomic import output_problem
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


@dataclass(frozen=True)
class Place:
    """What has to lie at a path: marks the types below, and is checked by `frostline.config.validation.validate`.

    Args:
        kind: `either` is a file or a folder.
        role: `input` is there; `output` is written; `filled` is read where it is there, else made.
    """

    kind: Literal["file", "folder", "either"]
    role: Literal["input", "output", "filled"] = "input"

    def problem(self, path: str) -> str | None:
        """What is wrong with a path, or None; an address (s3://…) is none of this machine's."""
        if "://" in path:
            return None
        if self.role == "output":
            return output_problem(path, folder=self.kind == "folder")
        place, wanted = Path(path), "file or folder" if self.kind == "either" else self.kind
        try:
            mode = place.stat().st_mode
        except FileNotFoundError:
            return None if self.role == "filled" else f"there is no {wanted} `{path}`."
        except (OSError, ValueError) as error:  # a folder that is closed to us, a file for a folder, a NUL in the path
            return f"`{path}` cannot be read ({getattr(error, 'strerror', None) or error})."
        found = "folder" if stat.S_ISDIR(mode) else "file"
        return None if self.kind in (found, "either") else f"`{path}` is a {found}; name a {self.kind}."


InputFile = Annotated[PathText, Place("file")]
InputFolder = Annotated[PathText, Place("folder")]
InputPath = Annotated[PathText, Place("either")]
FilledFolder = Annotated[PathText, Place("folder", "filled")]
OutputFile = Annotated[PathText, Place("file", "output")]
OutputFolder = Annotated[PathText, Place("folder", "output")]
# A run folder stands for its checkpoint.
CHECKPOINT_KEYS = ("resume_from", "init_from", "checkpoint")
CheckpointText = Annotated[InputFile, AfterValidator(_checkpoint(BEST, LAST))]
ResumeText = Annotated[InputPath, AfterValidator(to_go_on_from)]


def place_of(annotation: Any, metadata: Iterable[Any] = ()) -> Place | None:
    """The `Place` in a key's type, such as `InputFile | None` or `list[InputPath]`."""
    for part in (*metadata, *get_args(annotation)):
        if isinstance(part, Place):
            return part
        if found := place_of(part):
            return found
    return None
