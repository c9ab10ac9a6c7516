"""Where a run's files lie in its folder, and which checkpoint a folder stands for."""

from collections.abc import Sequence
from pathlib import Path

CONFIG, OVERRIDES, FACTS, METRICS = "config.yaml", "overrides.yaml", "facts.json", "metrics.csv"
DATA = "data.json"  # the complete report on the images
LOG = "train.log"  # of rank 0
PICTURES = "pictures"
CHECKPOINTS, BEST, LAST = "checkpoints", "best", "last"  # two .ckpt files
SWEEP = "multirun.yaml"  # Hydra's, in the folder of a sweep


def checkpoint_in(folder: Path, names: Sequence[str]) -> Path:
    """The first of these checkpoints that is there, of a run folder or its folder of checkpoints.

    Raises:
        ValueError: none is there.
    """
    for place in (folder / CHECKPOINTS, folder):
        for name in names:
            if (place / f"{name}.ckpt").is_file():
                return place / f"{name}.ckpt"
    jobs = sorted(file.parent.parent for file in folder.glob(f"*/{CHECKPOINTS}/*.ckpt"))
    if (folder / SWEEP).exists() and jobs:
        raise ValueError(f"`{folder}` is the folder of a sweep. Name one of its runs, such as {jobs[0]}")
    runs = f". Runs in it: {', '.join(dict.fromkeys(job.name for job in jobs[-3:]))}" if jobs else ""
    wanted = " or ".join(f"{CHECKPOINTS}/{name}.ckpt" for name in names)
    raise ValueError(f"`{folder}` is a folder without {wanted}. Name a run folder or a checkpoint{runs}")


def last_checkpoint(folder: Path) -> Path:
    """Where a run writes the checkpoint to go on from, whether it is there or not."""
    return folder / CHECKPOINTS / f"{LAST}.ckpt"


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in; None where it lies elsewhere."""
    place = checkpoint.parent
    return place.parent if place.name == CHECKPOINTS and (place.parent / CONFIG).is_file() else None
