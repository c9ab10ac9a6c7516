"""Checkpoints that are written atomically, also when a run is interrupted."""

import errno
import logging
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from frostline.data.time_limit import monitor
from frostline.models.saved_file import check_sums, read_plain
from frostline.storage.atomic import atomically
from frostline.storage.run_files import BEST, LAST
from frostline.tracking.checkpoint_content import content_of

log = logging.getLogger("frostline.checkpoints")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file beside the target, then renames it.

    Lightning 2.6 writes to the temporary folder and moves; where that is another disk, 9 of 60 kills left an unreadable
    file. A rename within one folder left none in 200.

    `best.ckpt` and `last.ckpt` usually have equal content, and the second of them is then a hard link to the first:
    half the time and half the disk. No file is changed in place, so that neither can change with the other.

    Args:
        run_folder: a folder that must exist: one that was removed is not created again with half of a run in it.
    """

    def __init__(self, *, run_folder: Path | None = None) -> None:
        super().__init__()
        self.run_folder = run_folder
        self._written: tuple[Any, Path, tuple[int, ...]] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the file atomically: an error leaves the file before."""
        target, content = Path(path), content_of(checkpoint)
        if self.run_folder is not None and not self.run_folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "The run folder is gone", str(self.run_folder))
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomically(target) as part:
            if not self._linked(part, content):
                with part.open("wb") as file:
                    _save(checkpoint, file)
        self._written = content, target, _file_state(target)

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a file after checking its checksums.

        Raises:
            ValueError: the file is corrupt.
        """
        try:
            check_sums(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return super().load_checkpoint(path, *arguments, **options)

    def _linked(self, path: Path, content: Any) -> bool:
        """Link the file written last to `path`, if it is unchanged and has this content."""
        if self._written is None:
            return False
        before, written, state = self._written
        try:
            if content != before or _file_state(written) != state:
                return False
            path.hardlink_to(written)
        except OSError:  # removed, or on a file system without links
            return False
        return True


def _save(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # The archive's end, which torch writes on the way out, fails as well and hides that the disk is full.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _file_state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class _RunCheckpoint(ModelCheckpoint):
    """One file in the run folder; its state is stored under the name of Lightning's ModelCheckpoint."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, filename=name, auto_insert_metric_name=False, enable_version_counter=False, **options)

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.dirpath or "") / f"{self.filename}{self.FILE_EXTENSION}"


class BestCheckpoint(_RunCheckpoint):
    """`best.ckpt`: the best by a value, over all of a run, the part before a resume included.

    A run that is resumed in another folder takes the earlier part's `best.ckpt` along.
    """

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.monitor in trainer.callback_metrics or trainer.fit_loop.epoch_loop.val_loop._has_run:
            super().on_train_epoch_end(trainer, pl_module)  # else the run ends before its first validation

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get("callbacks", {})
        if trainer.state.fn != "fit":
            states.pop(self.state_key, None)  # not needed, and Lightning warns where it is from another folder
            return
        state = states.get(self.state_key)
        if not state or state["best_model_score"] is None:
            return
        carried = trainer.is_global_zero and self._carry(state, Path(str(trainer.ckpt_path)))
        if not trainer.strategy.broadcast(carried):
            del checkpoint["callbacks"][self.state_key]
            return
        score, path = state["best_model_score"], str(self.path)
        state.update(dirpath=self.dirpath, best_model_path=path, kth_best_model_path=path, best_k_models={path: score})

    def _carry(self, state: Mapping[str, Any], resumed: Path) -> bool:
        """Link or copy the state's file, which lies beside `resumed`, into this run's folder, if it is not there."""
        found = resumed.with_name(self.path.name)
        # An unreadable file, or another run's, counts as missing.
        with suppress(OSError, ValueError, LookupError, TypeError):
            there = read_plain(found)
            if torch.equal(there["callbacks"][self.state_key]["best_model_score"], state["best_model_score"].cpu()):
                if not (self.path.exists() and self.path.samefile(found)):
                    link_or_copy(found, self.path)
                return True
        log.warning(
            "The run's best checkpoint so far (%s = %.4g) is not at %s: %s will be the best of what follows.",
            *(self.monitor, state["best_model_score"], found, self.path.name),
        )
        return False


class LastCheckpoint(_RunCheckpoint):
    """`last.ckpt`: written at intervals and at the end of a run."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, **options)
        self._resumed_step: int | None = None

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed_step = checkpoint["global_step"]
        # Nothing in it is needed, and Lightning warns where the folder is another.
        checkpoint.get("callbacks", {}).pop(self.state_key, None)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if _ends(trainer) and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A run that was resumed at its end trains nothing and calls no other hook.
        if trainer.global_step == self._resumed_step and trainer.is_global_zero and not self.path.exists():
            link_or_copy(Path(str(trainer.ckpt_path)), self.path)


def _ends(trainer: lightning.Trainer) -> bool:
    """Whether the current epoch is the last one."""
    steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
    return trainer.should_stop or steps or epochs


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomically(target) as part:
        try:
            part.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, part)


def checkpoint_callbacks(
    folder: Path, *, monitor: str | None, every_n_steps: int | None, within_epochs: bool = False
) -> dict[str, ModelCheckpoint]:
    """`best.ckpt` by the monitored value (where there is one) and `last.ckpt`, in one folder.

    Args:
        every_n_steps: optimizer steps between two writes of `last.ckpt`; None writes it at the end of each epoch. The
            last step of a run is always written.
        within_epochs: a run validates in the middle of an epoch, too; `best.ckpt` then holds the weights that were
            validated, not those at the epoch's end.
    """
    last = LastCheckpoint(
        folder, LAST, every_n_train_steps=every_n_steps, save_on_train_epoch_end=every_n_steps is None
    )
    if monitor is None:
        return {LAST: last}
    mode = "min" if monitor.endswith(("loss", "error")) else "max"
    at_epoch_end = False if within_epochs else None  # None: Lightning's choice
    best = BestCheckpoint(folder, BEST, monitor=monitor, mode=mode, save_on_train_epoch_end=at_epoch_end)
    return {BEST: best, LAST: last}


class Interrupted(Exception):  # noqa: N818 - the user's request, not an error
    """Ctrl-C or SIGTERM stopped the run; `checkpoint` is the last one written, if any.

    Args:
        step: None between two steps, waiting for images or extracting: what came after the last checkpoint is lost.
    """

    def __init__(self, signum: int, checkpoint: Path | None, step: int | None) -> None:
        saved = f"at step {step}; saved to {checkpoint}"
        if step is None:
            last = f"the last checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
            saved = f"between two steps; {last}"
        super().__init__(f"Interrupted by {signal.Signals(signum).name} {saved}")
        self.signum = signum
        self.checkpoint = checkpoint
        self.step = step


class SaveOnInterrupt(lightning.Callback):
    """After each batch: if any process has received SIGINT or SIGTERM, save and stop on all of them.

    The handlers only set a flag. A handler that saved would deadlock: it could interrupt a collective that the other
    processes are waiting in. Only a wait for images is interrupted at once.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._received = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Not in `setup`: Lightning registers its own handler after it, which runs a broadcast where the signal finds
        # it, stops inside an accumulation window, and would put ours back after a failed fit.
        if not self._before:
            self._received = 0
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._note)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.restore()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Restore the signal handlers that were there before."""
        if self._before:
            monitor().interrupt(None)
        while self._before:
            signal.signal(*self._before.popitem())

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Inside an accumulation window the gradients so far are in no checkpoint.
        if trainer.fit_loop._should_accumulate():
            return
        received = trainer.strategy.reduce(torch.tensor(self._received, device=pl_module.device), reduce_op="max")
        signum = int(received)
        if signum:
            trainer.save_checkpoint(self.checkpoint)
            # The step's values, which Lightning would log after this hook: the run that goes on starts with the next.
            trainer._logger_connector.on_batch_end()
            trainer._logger_connector.update_train_step_metrics()
            raise Interrupted(signum, self.checkpoint, trainer.global_step)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._received:  # a second one means: now
            raise KeyboardInterrupt
        self._received = signum
        monitor().interrupt(Interrupted(signum, self.checkpoint if self.checkpoint.exists() else None, None))
