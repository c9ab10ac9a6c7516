"""Time limits on waits for images: an unreachable drive, or a signal meanwhile, ends the run with a message."""

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
# Seconds after SIGTERM until the wait ends with an exception, and after that until the process ends.
PATIENCE = 8.0
POLL_INTERVAL = 0.25
TEXT = (
    "No batch came within {0:g} s (Loading.timeout={0:g}). Is the drive that the images lie on reachable? Where "
    "reading takes so long, type a larger Loading.timeout=SECONDS."
)


class Wait:
    """One wait of the main thread, and the exception that ends it."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds if seconds else float("inf")
        self.error: BaseException = TimeoutError(TEXT.format(seconds))
        self.raised = 0.0


class WaitMonitor(threading.Thread):
    """A thread that ends the main thread's waits.

    A signal interrupts a sleep or a read of a pipe, and its handler raises. A read from an unreachable network drive is
    not interrupted: the process ends.
    """

    def __init__(self) -> None:
        super().__init__(name="frostline-waiting", daemon=True)
        self.process = os.getpid()
        self.wait: Wait | None = None
        self.interruption: BaseException | None = None
        self._before: Any = None

    def begin(self) -> None:
        """Handle SIGALRM; the previous handler still gets alarms that end no wait."""
        before = signal.getsignal(signal.SIGALRM)
        if before != self._on_alarm:
            self._before = before
            signal.signal(signal.SIGALRM, self._on_alarm)

    def interrupt(self, error: BaseException | None) -> None:
        """End the current or the next wait, after `PATIENCE`, with this exception; None: take that back."""
        self.interruption = error
        if self.wait is not None:
            self.shorten(self.wait)

    def shorten(self, wait: Wait) -> None:
        """End a wait early where there is an interruption."""
        if self.interruption is not None:
            wait.error, wait.end = self.interruption, min(wait.end, time.monotonic() + PATIENCE)

    def run(self) -> None:
        while True:
            time.sleep(POLL_INTERVAL)
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


_monitors: list[WaitMonitor] = []


def monitor() -> WaitMonitor:
    """This process's monitor, running."""
    if not _monitors or _monitors[0].process != os.getpid():
        _monitors[:] = [WaitMonitor()]
        _monitors[0].start()
    return _monitors[0]


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Limit how long the main thread waits for images in the block; 0: until a signal comes.

    Raises:
        TimeoutError: it waited for longer.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    waits = monitor()
    if waits.wait is not None:  # a wait within a wait
        yield
        return
    waits.begin()
    wait = Wait(seconds)
    waits.wait = wait
    waits.shorten(wait)
    try:
        yield
    finally:
        waits.wait = None


def with_limit(items: Iterable[Item], *, seconds: float) -> Iterator[Item]:
    """The items, each within so many seconds; 0: without a limit.

    Raises:
        TimeoutError: one came too late, here or in a loader's worker.
    """
    iterator = iter(items)
    while True:
        try:
            with limited(seconds):
                item = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out after"):
                raise
            raise TimeoutError(TEXT.format(float(str(error).split()[4]))) from None
        yield item
