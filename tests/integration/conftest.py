"""The program as its user starts it: a command in a folder of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.slurm_cluster import SlurmCluster, available
from tests.preloaded import FROSTLINE
from tests.preloaded import run as run_preloaded

ROOT = Path(__file__).resolve().parents[2]
# Seconds of training, not minutes; everything else as shipped.
SHORT = (
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2",
    "trainer.precision=32-true",
    "model.weights=none",
    "callbacks.progress_bar=false",
    "callbacks.pictures=false",
    "trainer.log_every_n_steps=1",
    "data.image_size=32",
)

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Runs a command in the test's folder; `returncode`, `stdout` and `stderr` are there to look at.

    `tests.preloaded` runs `frostline` and `python -c`; with `preloaded=False` Python itself does, as at a user's.
    """
    output = tmp_path_factory.mktemp("output")

    def run(
        *given: object, env: dict[str, str] | None = None, seconds: float = 300, preloaded: bool = True
    ) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in given]
        whole_env = {**os.environ, **(env or {})}
        if preloaded and (words[:3] == FROSTLINE or words[:2] == [sys.executable, "-c"]):
            return run_preloaded(words, cwd=tmp_path, output=output, env=whole_env, seconds=seconds)
        return subprocess.run(
            words, cwd=tmp_path, env=whole_env, capture_output=True, text=True, timeout=seconds, check=False
        )

    return run


def facts(folder: Path) -> dict[str, object]:
    content = json.loads((folder / "facts.json").read_text())
    assert isinstance(content, dict)
    return content


def only_run(folder: Path) -> Path:
    """The one run folder under `folder/runs`."""
    [run] = (folder / "runs").iterdir()
    return run


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if not available():
        pytest.fail("The cluster tests need Debian's slurmctld, slurmd, slurm-client and munge, and root.")
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
