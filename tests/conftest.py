"""What every test needs: few threads, and no network or W&B account by accident."""

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import tests.preloaded  # noqa: F401 - what `start_method="forkserver"` starts from

# Before torch is imported. Two threads of several test processes on two cores would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What has been imported stays: a search for garbage among its 500,000 objects takes half a second each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let Python free it at its end, or triton reports it as lost."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test sees neither the launcher's variables of the shell it runs in, nor its caches or accounts."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "WANDB_")) or name in ("RANK", "WORLD_SIZE", "RUN_ID"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path_factory.mktemp("features")))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "torch_home"))
    absl: Any = sys.modules.get("absl.logging")  # TensorBoard's
    if absl is not None:  # its handler closes a stream that is no longer `sys.stderr`, as another test's capture
        absl.get_absl_handler().python_handler.stream = sys.__stderr__
    config_files: Any = sys.modules.get("frostline.commands.config_files")
    if config_files is not None:  # what another test resumed in this process
        monkeypatch.setattr(config_files.ConfigFiles, "stored", None)


@pytest.fixture(autouse=True)
def _no_wandb_run_left() -> Iterator[None]:
    """A test that starts a W&B run in this process ends it: the next WandbLogger would log into it."""
    yield
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
        pytest.fail("a W&B run is still active")
