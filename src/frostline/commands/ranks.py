"""The processes of a run: how they are started, and how they come to one config.

Rank 0 composes and writes the config into the run folder; the others read it. They never compose for themselves:
in a sweep each would start the sweep again.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from frostline.commands.command_line import for_workers
from frostline.commands.launcher import global_rank
from frostline.config import secret_values
from frostline.config.commands import TrainConfig
from frostline.data.cores import usable_cores
from frostline.storage.atomic import write_text

READY_SECONDS = 300.0
REFUSED = "refused"
# How long the others get to end by themselves after one process has failed.
GRACE_SECONDS = 10.0


def announce(folder: Path) -> None:
    """Rank 0 has written the config: let the other ranks read it."""
    (folder / _signal_name()).touch()


@contextmanager
def refusal_announced(folder: Path) -> Iterator[None]:
    """Let the other ranks know where rank 0 ends before it has announced the config."""
    try:
        yield
    except BaseException:
        if not (folder / _signal_name()).exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / _signal_name(), REFUSED)
        raise


def await_config(folder: Path, *, seconds: float = READY_SECONDS) -> bool:
    """Wait until rank 0 of this very launch has written the config; False: it has refused the run.

    Raises:
        TimeoutError: it has not, within that time.
    """
    end = time.monotonic() + seconds
    while not (folder / _signal_name()).exists():
        if time.monotonic() > end:
            raise TimeoutError(f"Rank {global_rank()} waited {seconds:.0f} s for rank 0 to write {folder}/config.yaml")
        time.sleep(0.05)
    return (folder / _signal_name()).read_text() != REFUSED


def _signal_name() -> str:
    env = os.environ
    launch = (
        env.get("TORCHELASTIC_RUN_ID", "") + env.get("TORCHELASTIC_RESTART_COUNT", "")
        or f"{env.get('SLURM_JOB_ID')}.{env.get('SLURM_STEP_ID')}.{env.get('SLURM_RESTART_COUNT', '0')}"
    )
    return f".ready-{launch}"


def start(folder: Path, config: TrainConfig, *, processes: int) -> int:
    """Run the prepared run folder on several processes of this machine and return the exit code.

    When one process fails, the others are ended: they would wait for it until their time-out.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared: Mapping[str, Any] = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": processes,
        "NODE_RANK": 0,
        **for_workers(),
        # Classes of the user's own are found where this process finds them.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": config.device.threads or max(1, usable_cores() // processes),
    }
    children: list[subprocess.Popen[bytes]] = []

    def forward(signum: int, _: FrameType | None) -> None:
        for child in children:
            child.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(processes):
            env = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
            command = [sys.executable, "-m", "frostline.commands.worker", str(folder)]
            # A session of its own: Ctrl-C would else reach a child twice, and twice means without saving.
            child = subprocess.Popen(command, env=env, start_new_session=True, stdin=subprocess.PIPE)
            children.append(child)
            assert child.stdin is not None
            with child.stdin:  # the config in the folder lacks the secrets
                child.stdin.write(pickle.dumps((config, secret_values.known())))
        return _outcome(children)
    finally:
        for child in children:
            child.kill()
            child.wait()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _outcome(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all, or for the first that fails; its exit code."""
    while any(child.poll() is None for child in children):
        failed = [code for child in children if (code := child.poll())]
        if failed:
            end = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < end and any(child.poll() is None for child in children):
                time.sleep(0.1)
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        time.sleep(0.1)
    codes = [child.returncode for child in children]
    worst = next((code for code in codes if code), 0)
    return worst if worst >= 0 else 128 - worst
