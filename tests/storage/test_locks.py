"""Locks between processes: a long wait is reported and may have a limit."""

import fcntl
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from frostline.prefix import store
from frostline.storage import locks
from frostline.storage.locks import locked


@contextmanager
def held(path: Path) -> Iterator[threading.Event]:
    """Lock the file, as a stopped process would, until the event is set."""
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
    """Unlocks when something is logged."""

    def __init__(self, free: threading.Event) -> None:
        super().__init__()
        self.free = free

    def emit(self, record: logging.LogRecord) -> None:
        self.free.set()


def test_a_long_wait_is_reported_with_the_file_and_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "REPORT_AFTER", 0.05)
    path = tmp_path / ".lock"
    with held(path) as free:
        handler = Frees(free)
        logging.getLogger().addHandler(handler)  # after the one that takes messages here
        try:
            with locked(path, advice="type cache.folder=ANOTHER_FOLDER"):
                pass
        finally:
            logging.getLogger().removeHandler(handler)
    assert len(caplog.messages) == 1
    for part in (f"Waiting for {path} for 0.05 s", f"`fuser -v {path}`", "type cache.folder=ANOTHER_FOLDER"):
        assert part in caplog.text


def test_a_free_lock_reports_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(tmp_path / ".lock", advice=""):
        assert not any(isinstance(thread, threading.Timer) and thread.is_alive() and not thread.finished.is_set()
                       for thread in threading.enumerate())  # fmt: skip
    assert caplog.messages == []


def test_a_store_gives_up_on_a_lock_after_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_LIMIT", 0.1)
    rows = store.Rows(count=2, shape=(2,), dtype="float32", strides=(1,))
    with held(tmp_path / ".lock"), pytest.raises(OSError, match=r"another process has locked .*\.lock for 0\.1 s"):
        store.open_store(tmp_path, key="k", rows=rows, limit_bytes=10**6, about={})
    store.open_store(tmp_path, key="k", rows=rows, limit_bytes=10**6, about={})
