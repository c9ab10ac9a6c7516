"""What started this process: torchrun or srun, as one of a run's ranks, or neither."""

import os

# Lightning, too, takes a job of this name for a shell in which things are started by hand.
INTERACTIVE = ("bash", "interactive")


def launched_outside() -> bool:
    """Whether torchrun or srun started this process as one of a run's ranks."""
    env = os.environ
    return "TORCHELASTIC_RUN_ID" in env or ("SLURM_PROCID" in env and env.get("SLURM_JOB_NAME") not in INTERACTIVE)


def global_rank() -> int:
    """This process's place among all of the run's; 0 where it is alone."""
    if not launched_outside():
        return 0
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def outside_world() -> tuple[int, int]:
    """Processes per node and nodes, as torchrun or srun started them."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        local = int(env["LOCAL_WORLD_SIZE"])
        return local, int(env["WORLD_SIZE"]) // local
    nodes = int(env.get("SLURM_NNODES", "1"))
    return int(env.get("SLURM_NTASKS", "1")) // nodes, nodes
