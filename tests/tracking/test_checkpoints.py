"""Checkpoints are whole or not there, and an interruption saves."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from tests.preloaded import Started
from tests.preloaded import run as run_preloaded
from tests.quiet import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from frostline.tracking.checkpoints import (
    AtomicCheckpointIO,
    Interrupted,
    SaveOnInterrupt,
    checkpoint_callbacks,
)

# Whole files


def test_the_file_is_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"value": torch.ones(2)}, path)
    assert torch.load(path, weights_only=True)["value"].tolist() == [1, 1]
    assert list(path.parent.iterdir()) == [path]


class Unpicklable:
    """Fails when `torch.save` has already begun to write."""

    def __reduce__(self) -> Any:
        raise OSError(28, "No space left on device")


def test_a_failed_save_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoints = AtomicCheckpointIO()
    checkpoints.save_checkpoint({"value": 1}, path)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save_checkpoint({"large": torch.zeros(1000), "broken": Unpicklable()}, path)
    assert torch.load(path, weights_only=True) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_checkpoint_and_leaves_the_one_before(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = """
        import resource, signal, sys
        from pathlib import Path

        import torch
        from frostline.tracking.checkpoints import AtomicCheckpointIO

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        path, checkpoints = Path(sys.argv[1]), AtomicCheckpointIO()
        checkpoints.save_checkpoint({"value": 1}, path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        checkpoints.save_checkpoint({"value": torch.zeros(100_000)}, path)
    """
    path = tmp_path / "last.ckpt"
    done = run_preloaded(
        [sys.executable, "-c", textwrap.dedent(script), path], output=tmp_path_factory.mktemp("output")
    )
    assert done.stderr.strip().endswith(f"OSError: [Errno 27] File too large: '{path}'")
    assert torch.load(path, weights_only=True) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_folder_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    checkpoints = AtomicCheckpointIO(run_folder=tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="The run folder is gone"):
        checkpoints.save_checkpoint({}, tmp_path / "gone/checkpoints/last.ckpt")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    path, other = tmp_path / "last.ckpt", tmp_path / ".best.ckpt.12.part"
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    (tmp_path / f".last.ckpt.{killed.pid}.part").write_bytes(b"half")
    other.write_bytes(b"another file's")
    AtomicCheckpointIO().save_checkpoint({}, path)
    assert sorted(tmp_path.iterdir()) == [other, path]


def test_a_kill_in_the_middle_of_saving_leaves_a_file_that_loads(tmp_path: Path) -> None:
    script = """
        import os, random, signal, sys, time
        from pathlib import Path

        import torch
        from frostline.tracking.checkpoints import AtomicCheckpointIO

        folder, chance = Path(sys.argv[1]), random.Random(0)
        checkpoint = {"tensors": torch.ones(2_000_000)}
        for attempt in range(5):
            path = folder / str(attempt) / "last.ckpt"
            AtomicCheckpointIO().save_checkpoint(checkpoint, path)
            saving = os.fork()
            while saving == 0:
                AtomicCheckpointIO().save_checkpoint(checkpoint, path)
            time.sleep(chance.uniform(0.02, 0.1))
            os.kill(saving, signal.SIGKILL)
            os.waitpid(saving, 0)
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]  # apart from this process's threads
    assert Started(words).wait(120) == 0
    for attempt in range(5):
        whole = torch.load(tmp_path / str(attempt) / "last.ckpt", weights_only=True)
        assert whole["tensors"].sum() == 2_000_000
    assert list(tmp_path.glob("*/.*.part")), "no kill fell into a save, so nothing was tested"


# Which checkpoints


def test_best_and_last(tmp_path: Path) -> None:
    kept = checkpoint_callbacks(tmp_path, monitor="val/accuracy", every_n_steps=None)
    assert list(kept) == ["best", "last"]
    assert (kept["best"].monitor, kept["best"].mode, kept["best"].filename) == ("val/accuracy", "max", "best")
    assert kept["last"].monitor is None


@pytest.mark.parametrize("monitor", ["val/loss", "val/calibration_error"])
def test_a_smaller_loss_or_error_is_better(tmp_path: Path, monitor: str) -> None:
    assert checkpoint_callbacks(tmp_path, monitor=monitor, every_n_steps=None)["best"].mode == "min"


def test_without_a_value_to_monitor_there_is_no_best(tmp_path: Path) -> None:
    assert list(checkpoint_callbacks(tmp_path, monitor=None, every_n_steps=None)) == ["last"]


class Scored(lightning.LightningModule):
    """Validates to a given value in each epoch; trains four steps in each."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.scores = scores

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).sum()
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/accuracy", self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def scored_fit(
    folder: Path, scores: list[float], *, resume: Path | None = None, every: int | None = None, **options: Any
) -> dict[str, Any]:
    """What is in the files that a run leaves, by name: the step of each, and the path of the best."""
    kept = checkpoint_callbacks(folder, monitor="val/accuracy", every_n_steps=every)
    trainer = quiet_trainer(
        **{"max_epochs": len(scores), **options},
        num_sanity_val_steps=0,
        callbacks=list(kept.values()),
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=True,
    )
    data = DataLoader(TensorDataset(torch.ones(4, 2)))
    trainer.fit(Scored(scores), data, data, ckpt_path=resume, weights_only=True)
    steps = {path.stem: torch.load(path, weights_only=True)["global_step"] for path in folder.glob("*.ckpt")}
    return {**steps, "path": kept["best"].best_model_path}  # type: ignore[attr-defined]


@pytest.mark.parametrize("every", [None, 1, 3, 100])
@pytest.mark.parametrize(("options", "step"), [({}, 8), ({"max_steps": 7}, 7)])
def test_the_last_checkpoint_of_a_finished_run_is_of_its_last_step(
    tmp_path: Path, every: int | None, options: dict[str, Any], step: int
) -> None:
    assert scored_fit(tmp_path, [0.1, 0.2], every=every, **options)["last"] == step


@pytest.mark.parametrize("every", [None, 3])
def test_a_run_resumed_at_its_end_has_both_checkpoints(tmp_path: Path, every: int | None) -> None:
    scored_fit(tmp_path / "a", [0.5, 0.2], every=every)
    again = scored_fit(tmp_path / "b", [0.5, 0.2], every=every, resume=tmp_path / "a/last.ckpt")
    assert again == {"best": 4, "last": 8, "path": str(tmp_path / "b/best.ckpt")}


@pytest.mark.parametrize(("later", "best"), [(0.3, 4), (0.7, 12)])
def test_the_best_before_a_resume_counts_in_another_folder(tmp_path: Path, later: float, best: int) -> None:
    scored_fit(tmp_path / "a", [0.5, 0.2], every=1)
    (tmp_path / "a").rename(tmp_path / "moved")
    rest = scored_fit(tmp_path / "b", [0.5, 0.2, later], every=1, resume=tmp_path / "moved/last.ckpt")
    assert rest == {"best": best, "last": 12, "path": str(tmp_path / "b/best.ckpt")}
    old = torch.load(tmp_path / "moved/best.ckpt", weights_only=True)
    assert old["global_step"] == 4, "the earlier run's file stays as it was"


def test_a_best_that_is_gone_or_another_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scored_fit(tmp_path / "a", [0.5, 0.2])
    scored_fit(tmp_path / "other", [0.9])
    (tmp_path / "other/best.ckpt").replace(tmp_path / "a/best.ckpt")
    rest = scored_fit(tmp_path / "b", [0.5, 0.2, 0.3], resume=tmp_path / "a/last.ckpt")
    assert (rest["best"], rest["path"]) == (12, str(tmp_path / "b/best.ckpt"))
    assert "best checkpoint so far (val/accuracy = 0.5) is not at" in caplog.text


# Interruption


class Model(lightning.LightningModule):
    """Sends itself signals at the batches that the test names."""

    def __init__(self, signals: dict[int, list[int]]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.signals = signals

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        for signum in self.signals.get(batch_idx, []):
            os.kill(os.getpid(), signum)
            time.sleep(0.01)  # until Python has called its handler
        loss: Tensor = self.layer(batch[0]).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path, signals: dict[int, list[int]], *, saving: SaveOnInterrupt | None = None, **options: Any
) -> lightning.Trainer:
    trainer = quiet_trainer(max_epochs=1, callbacks=[saving or SaveOnInterrupt(folder / "last.ckpt")], **options)
    trainer.fit(Model(signals), DataLoader(TensorDataset(torch.rand(6, 2))))
    return trainer


@pytest.fixture
def handlers() -> dict[int, Any]:
    return {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}


def now() -> dict[int, Any]:
    return {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_batch_and_stops(tmp_path: Path, handlers: dict[int, Any], signum: int) -> None:
    with pytest.raises(Interrupted) as caught:
        fit(tmp_path, {2: [signum]})
    assert (caught.value.signum, caught.value.step) == (signum, 3)
    assert caught.value.checkpoint == tmp_path / "last.ckpt"
    assert f"Interrupted by {signal.Signals(signum).name} at step 3; saved to" in str(caught.value)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
    assert now() == handlers


def test_an_interrupted_callback_serves_another_fit(tmp_path: Path) -> None:
    saving = SaveOnInterrupt(tmp_path / "last.ckpt")
    for batch in (1, 3):
        with pytest.raises(Interrupted) as caught:
            fit(tmp_path, {batch: [signal.SIGTERM]}, saving=saving)
        assert caught.value.step == batch + 1


def test_a_second_signal_interrupts_at_once(tmp_path: Path, handlers: dict[int, Any]) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, {2: [signal.SIGINT, signal.SIGINT]})
    assert not (tmp_path / "last.ckpt").exists()
    assert now() == handlers


def test_an_accumulation_window_is_finished_first(tmp_path: Path) -> None:
    """The gradients of a half-full window are in no checkpoint."""
    with pytest.raises(Interrupted) as caught:
        fit(tmp_path, {0: [signal.SIGTERM]}, accumulate_grad_batches=3)
    assert caught.value.step == 1
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1


def test_without_a_signal_the_run_ends_and_the_handlers_are_given_back(
    tmp_path: Path, handlers: dict[int, Any]
) -> None:
    assert fit(tmp_path, {}).global_step == 6
    assert not (tmp_path / "last.ckpt").exists()
    assert now() == handlers


def test_an_error_gives_the_handlers_back(tmp_path: Path, handlers: dict[int, Any]) -> None:
    with pytest.raises(TypeError):
        fit(tmp_path, {1: [None]})  # type: ignore[list-item]
    assert now() == handlers
