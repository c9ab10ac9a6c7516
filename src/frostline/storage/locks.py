"""Locks between processes: a long wait is reported and may have a limit."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("frostline.waiting")

REPORT_AFTER = 3.0  # seconds


@contextmanager
def reported_wait(path: str | os.PathLike[str], *, advice: str) -> Iterator[None]:
    """Log a warning, once, if the block takes longer than `REPORT_AFTER`.

    A thread logs it, because an open or a lock on an unreachable mount stays in the system call.

    Args:
        path: the file waited for.
        advice: what to do if the wait never ends, as in "type cache_dir=ANOTHER".
    """
    timer = threading.Timer(
        REPORT_AFTER,
        log.warning,
        (
            "Waiting for %s for %g s: another process has locked it, or its disk does not respond. `fuser -v %s` shows "
            "the process. The run continues when that process ends or unlocks it; or stop this run, and %s.",
            path,
            REPORT_AFTER,
            path,
            advice,
        ),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def locked(path: str | os.PathLike[str], *, advice: str, limit: float | None = None) -> Iterator[None]:
    """Hold a lock file during the block; its folder is created. The wait is a `reported_wait`.

    Args:
        limit: longest wait in seconds; None: no limit.

    Raises:
        OSError: the file cannot be opened, or was not free within the limit.
    """
    lock = FileLock(path)
    try:
        with reported_wait(path, advice=advice):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if limit is None else limit)
    except Timeout as error:
        raise TimeoutError(f"another process has locked {path} for {limit:g} s") from error
    try:
        yield
    finally:
        lock.release()


def share(descriptor: int) -> None:
    """Mark an open file as in use until this process, and those it forks, close it.

    Nothing happens where the file system or the platform has no such locks.
    """
    _flock(descriptor, exclusive=False)


def is_unused(path: Path) -> bool:
    """Whether no process has marked the file as in use (`share`); False where the file system has no such locks."""
    descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    try:
        return _flock(descriptor, exclusive=True)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, *, exclusive: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, which does not let a process remove a file that another has open
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except OSError:
        return False
    return True
