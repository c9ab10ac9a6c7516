"""Bounded waiting for images: a drive that does not answer ends a run, in a message, as does a signal meanwhile."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")
# Seconds that an image still gets after SIGTERM, and then the exception to end the wait, before the process ends.
PATIENCE = 8.0
POLLED = 0.25
TEXT = (
    "No batch came within {:g} s (data.loader_timeout). Is the drive that the images lie on reachable? Where reading "
    "takes so long, type a larger data.loader_timeout."
)


class Wait:
    """One wait of the main thread, and the exception that ends it."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds if seconds else float("inf")
        self.error: BaseException = TimeoutError(TEXT.format(seconds))
        self.raised = 0.0


class Watch(threading.Thread):
    """Looks after the main thread's waits.

    A signal interrupts a sleep or a read of a pipe, and its handler raises. A read of a dead network drive is not
    interrupted: the process ends.
    """

    def __init__(self) -> None:
        super().__init__(name="frostline-waiting", daemon=True)
        self.process = os.getpid()
        self.wait: Wait | None = None
        self.wish: BaseException | None = None
        self._before: Any = None

    def begin(self) -> None:
        """Take SIGALRM, which whoever had it gets where no wait is over."""
        before = signal.getsignal(signal.SIGALRM)
        if before != self._on_alarm:
            self._before = before
            signal.signal(signal.SIGALRM, self._on_alarm)

    def ask(self, error: BaseException | None) -> None:
        """End the wait that is or comes after `PATIENCE` with this exception; None: let it go on."""
        self.wish = error
        if self.wait is not None and error is not None:
            self.hasten(self.wait)

    def hasten(self, wait: Wait) -> None:
        if self.wish is not None:
            wait.error, wait.end = self.wish, min(wait.end, time.monotonic() + PATIENCE)

    def run(self) -> None:
        while True:
            time.sleep(POLLED)
            wait, now = self.wait, time.monotonic()
            if wait is None or now < wait.end:
                continue
            if not wait.raised:
                wait.raised = now
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            elif now > wait.raised + PATIENCE and self.wait is wait:
                print(f"frostline: {wait.error}", file=sys.stderr, flush=True)
                signum = getattr(wait.error, "signum", None)
                os._exit(2 if signum is None else 128 + signum)  # as after the exception

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        if self.wait is not None and self.wait.raised:
            raise self.wait.error
        if callable(self._before):
            self._before(signum, frame)


_watches: list[Watch] = []


def watch() -> Watch:
    """This process's watch, at work."""
    if not _watches or _watches[0].process != os.getpid():
        _watches[:] = [Watch()]
        _watches[0].start()
    return _watches[0]


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Let the main thread wait for images for so long; 0: until a signal comes.

    Raises:
        TimeoutError: it waited for longer.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    watching = watch()
    if watching.wait is not None:  # a wait within a wait
        yield
        return
    watching.begin()
    wait = Wait(seconds)
    watching.wait = wait
    watching.hasten(wait)
    try:
        yield
    finally:
        watching.wait = None


def patiently(items: Iterable[Item], *, seconds: float) -> Iterator[Item]:
    """The items, each of which has to come within so many seconds; 0: any time.

    Raises:
        TimeoutError: one did not, here or in a loader's worker.
    """
    iterator = iter(items)
    while True:
        try:
            with bounded(seconds):
                item = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out after"):
                raise
            raise TimeoutError(TEXT.format(float(str(error).split()[4]))) from None
        yield item
