"""Locks between processes, whose holder may never let go: a wait is told, and may have an end."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("frostline.waiting")

TOLD_AFTER = 3.0  # seconds


@contextmanager
def told(path: str | os.PathLike[str], *, way_out: str, after: float | None = None) -> Iterator[None]:
    """Tell, once, what is waited for where the block takes longer than `after` seconds (None: `TOLD_AFTER`).

    By a thread of its own: an open or a lock on a mount that is gone stays in the system call.
    """

    def tell() -> None:
        log.warning(
            "Waiting for %s since %g s: another process holds it, or its disk does not answer. `fuser -v %s` tells "
            "which one. It goes on when that process ends or lets go; or stop this run, and %s.",
            path,
            seconds,
            path,
            way_out,
        )

    seconds = TOLD_AFTER if after is None else after
    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def locked(path: str | os.PathLike[str], *, way_out: str, limit: float | None = None) -> Iterator[None]:
    """Hold a lock's file, in a folder that is made for it, during the block; a wait for another process is told.

    Args:
        way_out: what to do where that process never lets go, as in "type cache.folder=ANOTHER".
        limit: seconds to wait at most; None: for ever.

    Raises:
        OSError: it cannot be opened, or was not free within the limit.
    """
    lock = FileLock(path)
    try:
        with told(path, way_out=way_out):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if limit is None else limit)
    except Timeout as error:
        raise TimeoutError(f"another process has held {path} for {limit:g} s") from error
    try:
        yield
    finally:
        lock.release()
