"""Locks that another process holds: what is waited for is told, and a wait may have an end."""

import fcntl
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from frostline.prefix import store, waiting
from frostline.prefix.waiting import locked


@contextmanager
def held(path: Path) -> Iterator[threading.Event]:
    """Held as by a stopped process, until the event is set."""
    free = threading.Event()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: (free.wait(30), fcntl.flock(file, fcntl.LOCK_UN)))
        thread.start()
        try:
            yield free
        finally:
            free.set()
            thread.join()


class Frees(logging.Handler):
    """Lets a lock go when something is told."""

    def __init__(self, free: threading.Event) -> None:
        super().__init__()
        self.free = free

    def emit(self, record: logging.LogRecord) -> None:
        self.free.set()


def test_a_wait_is_told_with_the_file_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "TOLD_AFTER", 0.05)
    path = tmp_path / ".lock"
    with held(path) as free:
        handler = Frees(free)
        logging.getLogger().addHandler(handler)  # after the one that takes messages here
        try:
            with locked(path, way_out="type cache.folder=ANOTHER_FOLDER"):
                pass
        finally:
            logging.getLogger().removeHandler(handler)
    assert len(caplog.messages) == 1
    for part in (f"Waiting for {path} since 0.05 s", f"`fuser -v {path}`", "type cache.folder=ANOTHER_FOLDER"):
        assert part in caplog.text


def test_nothing_is_told_where_the_lock_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(tmp_path / ".lock", way_out=""):
        assert not any(isinstance(thread, threading.Timer) and thread.is_alive() and not thread.finished.is_set()
                       for thread in threading.enumerate())  # fmt: skip
    assert caplog.messages == []


def test_a_store_whose_lock_stays_held_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_LIMIT", 0.1)
    rows = store.Rows(count=2, shape=(2,), dtype="float32", strides=(1,))
    with held(tmp_path / ".lock"), pytest.raises(OSError, match=r"another process has held .*\.lock for 0\.1 s"):
        store.open_store(tmp_path, key="k", rows=rows, limit_bytes=10**6, about={})
    store.open_store(tmp_path, key="k", rows=rows, limit_bytes=10**6, about={})
