"""The log of a run: its file for each rank, the message of an error once for all ranks, and libraries kept quiet."""

import logging
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

from frostline.commands.failures import message_of
from frostline.commands.log_lines import PrintableFormatter, TerminalHandler
from frostline.commands.terminal import shown
from frostline.storage.run_files import LOG

FRESH_SECONDS = 30.0  # a log of another rank older than this is of another run in the folder


def quiet_libraries() -> None:
    """Silence advice that does not apply here, message by message."""
    for message in (
        # The evaluation metrics add up over processes by themselves before they are logged.
        r".*It is recommended to use `self.log\(.*sync_dist=True\)`.*",
        # Chosen for small data on few cores: research and figures in frostline.data.datamodule.
        r".*does not have many workers which may be a bottleneck.*",
        # trainer.log_every_n_steps beyond the epoch is harmless: epoch values are logged in any case.
        r".*The number of training batches .* is smaller than the logging interval.*",
        # A run without srun is a choice: scripts/slurm/train.sbatch is the other one.
        r".*The `srun` command is available on your system but is not used.*",
        # The folder was made for this run.
        r".*Checkpoint directory .* exists and is not empty.*",
        # Lightning's own use of a part of torch that is going away.
        r".*isinstance\(treespec, LeafSpec\)` is deprecated.*",
        # An optimizer of the user's own may have none; that of others is logged.
        r".*log_momentum=True, but some optimizers do not have momentum.*",
        # A resumed run may leave out the limit of the one before it.
        r".*Please add the following callbacks: \['TimeLimit'\].*",
        # Frozen modules are in eval mode on purpose.
        r".*module\(s\) in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


def log_into(folder: Path, rank: int) -> None:
    """Ranks that Hydra did not set up: the first one writes as a single process would, the others to a file alone."""
    if logging.getLogger().handlers and rank == 0:
        return
    file = logging.FileHandler(folder / _log_name(rank), encoding="utf-8")
    file.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers: list[logging.Handler] = [file]
    if rank == 0:
        handlers.insert(0, TerminalHandler())  # before the file: see `NewWarnings`
        handlers[0].setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=handlers)


def explain(error: Exception, folder: Path, rank: int) -> None:
    """Print the message once, whichever ranks met the error; the traceback goes into the rank's log."""
    path = folder / _log_name(rank)
    if not folder.is_dir():
        if rank == 0:
            print(f"frostline: {folder}: the run folder is gone; it was removed or moved in mid-run.", file=sys.stderr)
        return
    message = message_of(error)
    with suppress(OSError), path.open("a", encoding="utf-8", errors="backslashreplace") as file:  # a full disk
        file.write(shown("".join(traceback.format_exception(error))))
        file.write(f"frostline: {shown(' '.join(message.split()))}\n")
    if rank:
        time.sleep(2)  # the first rank's chance to say the same
        if message_of(error) in (folder / _log_name(0)).read_text(encoding="utf-8"):
            return
    print(f"frostline: {message}\n(traceback in {path})", file=sys.stderr)


def explained_elsewhere(folder: Path, rank: int) -> bool:
    """Whether another rank of this run has just ended by a user's mistake: this one lost the connection to it."""
    for path in set(folder.glob("train*.log")) - {folder / _log_name(rank)}:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and lines[-1].startswith("frostline: ") and time.time() - path.stat().st_mtime < FRESH_SECONDS:
            return True
    return False


def _log_name(rank: int) -> str:
    return f"train.rank{rank}.log" if rank else LOG


def end_loggers(code: int) -> None:
    """End the W&B run, if there is one, so that a crash shows as a crash and the next job gets a run of its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=code)
