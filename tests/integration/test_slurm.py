"""scripts/slurm/train.sbatch on a real cluster."""

import sys
from pathlib import Path

import pytest
import torch

from tests.integration.conftest import ROOT, SHORT, Cli, facts
from tests.integration.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.cluster


def test_two_nodes_train_in_one_run_folder_as_one_process_does(slurm: SlurmCluster, tmp_path: Path, cli: Cli) -> None:
    done = cli(
        "sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1",
        f"--export=ALL,PYTHON={sys.executable}", str(ROOT / "scripts/slurm/train.sbatch"), *SHORT, env=slurm.env,
    )  # fmt: skip
    job = done.stdout.strip()
    assert job.isdigit(), done.stderr
    state = slurm.wait_for(job, seconds=240)
    output = (tmp_path / f"frostline-{job}.out").read_text()
    assert state == "COMPLETED", output

    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name == f"slurm-{job}"
    assert facts(folder)["steps"] == 8
    assert "device: cpu × 2" in output
    assert (folder / "train.rank1.log").exists()

    two = cli(sys.executable, "-m", "frostline", "train", *SHORT, "device=cpu_ddp", env={"RUN_ID": "two"})
    assert two.returncode == 0, two.stderr
    on_cluster = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    here = torch.load(tmp_path / "runs/two/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(on_cluster[name], here[name]) for name in here)


def test_a_failed_run_is_a_failed_job(slurm: SlurmCluster, tmp_path: Path, cli: Cli) -> None:
    done = cli(
        "sbatch", "--parsable", f"--export=ALL,PYTHON={sys.executable}", str(ROOT / "scripts/slurm/train.sbatch"),
        "optimizer.momentm=0.9", env=slurm.env,
    )  # fmt: skip
    job = done.stdout.strip()
    assert slurm.wait_for(job, seconds=120) == "FAILED"
    assert "Did you mean optimizer.momentum" in (tmp_path / f"frostline-{job}.out").read_text()
