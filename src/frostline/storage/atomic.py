"""Write files and folders atomically, and check before the work that a file can be written."""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Errors of a write to a file that is open, which name no file.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
BLOCK = 4096  # bytes, more than a full disk takes


@contextmanager
def atomically(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` when the block ends without an error.

    A device or a pipe (/dev/stdout) is written directly. The temporary file of a killed process is removed by the next
    one that writes the same file.

    Args:
        durable: wait until the disk has it.

    Raises:
        OSError: names `path`, also where only the temporary file was at hand.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        with _naming(target, target):
            yield target
        return
    target = target.resolve()  # a link stays a link
    temporary = _temporary(target)
    with _naming(target, temporary):
        try:
            _remove_leftovers(target)
            yield temporary
            if durable:
                _flush(temporary)
            temporary.replace(target)
            if durable:
                _flush(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to `path` when the block ends without an error.

    The temporary folder of a killed process is removed by the next one that writes the same folder.

    Raises:
        OSError: `path` is there and no empty folder, or cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = _temporary(target)
    temporary.mkdir()
    try:
        yield temporary
        os.rename(temporary, target)  # noqa: PTH104 - of an empty folder, Path.rename promises less
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Write a text atomically, as UTF-8; bytes of a file name that are not UTF-8 are kept."""
    with atomically(path, durable=durable) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def output_problem(path: str, *, folder: bool = False) -> str | None:
    """Why an output cannot be written to `path`; None where it can. Leaves nothing behind.

    Args:
        folder: the output is a folder, which may be there; otherwise a file, which is replaced.
    """
    target = Path(path)
    try:
        if target.is_dir():
            if not folder:
                return f"`{path}` is a folder; name a file in it."
            _try_writing(target)
        elif folder and _is_there(target):
            return f"`{path}` is a file; name a folder."
        elif not folder and path.endswith(os.sep):
            return f"`{path}` names a folder; name a file in it."
        elif not _is_there(target) or target.is_file():
            parent = target.resolve().parent
            while not _is_there(parent):
                parent = parent.parent
            _try_writing(parent)
    except (OSError, ValueError) as error:  # a NUL in the path
        return f"`{path}` cannot be written ({getattr(error, 'strerror', None) or error})."
    return None


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name[-100:]}.{os.getpid()}.part")


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files and folders of killed processes."""
    for stale in target.parent.glob(f".{glob.escape(target.name[-100:])}.*.part"):
        if not _is_running(stale.name.split(".")[-2]):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    try:
        path.stat()  # unlike exists(), says why it cannot know
    except FileNotFoundError:
        return False
    return True


def _try_writing(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(BLOCK))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Let an OSError without a file name, or with the temporary one's, name `path`."""
    try:
        yield
    except OSError as error:
        if str(error.filename) != str(temporary) and (error.filename is not None or error.errno not in DISK):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
