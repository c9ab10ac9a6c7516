"""Time limits on waits for images, and signals during a wait."""

import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from tests.preloaded import run as run_preloaded
from torch.utils.data import Dataset

from frostline.data import time_limit
from frostline.data.batches import WatchedLoader
from frostline.data.time_limit import limited, monitor, with_limit


class Hangs(Dataset[torch.Tensor]):
    """The third image does not come."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            time.sleep(1000)
        return torch.tensor(index)


@pytest.fixture(autouse=True)
def _signals() -> object:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("options", [{"patience": 0.1}, {"timeout": 1, "num_workers": 1}], ids=["here", "a worker"])
def test_a_loader_has_a_time_limit(options: dict[str, float]) -> None:
    got: list[int] = []
    loader = WatchedLoader(Hangs(), batch_size=1, **options)
    with pytest.raises(TimeoutError, match=r"No batch came within (0\.1|1) s \(Loading\.timeout=\S+\)"):
        got.extend(batch.item() for batch in loader)
    assert got == [0, 1]


def test_a_read_from_a_pipe_without_a_writer_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TimeoutError), limited(0.1):
        (tmp_path / "pipe").read_bytes()


def test_items_in_time_are_unchanged() -> None:
    assert list(with_limit(range(3), seconds=60)) == [0, 1, 2]
    assert monitor().wait is None


def test_an_interruption_ends_the_wait_and_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "PATIENCE", 0.1)
    monitor().interrupt(KeyboardInterrupt("SIGTERM"))
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), limited(0):
        time.sleep(1000)
    monitor().interrupt(None)
    with limited(0):
        time.sleep(0.6)


def test_another_alarm_reaches_its_handler() -> None:
    calls = []
    signal.signal(signal.SIGALRM, lambda *_: calls.append("alarm"))
    with limited(60):
        signal.raise_signal(signal.SIGALRM)
    assert calls == ["alarm"]


def test_other_threads_are_left_alone() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.extend(with_limit(range(2), seconds=1)))
    thread.start()
    thread.join()
    assert found == [0, 1]


def test_a_read_that_no_signal_interrupts_ends_the_process(tmp_path: Path) -> None:
    """Blocked signals stand for an unreachable network drive."""
    script = """
        import signal, time
        from frostline.data import time_limit
        time_limit.PATIENCE = 0.1
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        with time_limit.limited(0.1):
            time.sleep(1000)
    """
    done = run_preloaded([sys.executable, "-c", textwrap.dedent(script)], output=tmp_path, seconds=60)
    assert done.returncode == 2
    assert done.stderr.startswith("frostline: No batch came within 0.1 s")
