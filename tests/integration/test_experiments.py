"""The experiments in conf/experiment/: each states a result and trains; the two of the notebook take its steps."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from tests.integration.conftest import FROSTLINE, ROOT, Cli, facts, only_run

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))


def run(cli: Cli, tmp_path: Path, experiment: str) -> tuple[str, Path]:
    # The initial weights are given, so that the test can compare with them.
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "initial.pth")
    done = cli(
        *FROSTLINE, "train", f"experiment={experiment}", "model.weights=initial.pth", "callbacks.progress_bar=false"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, only_run(tmp_path)


def moved(tmp_path: Path, folder: Path) -> set[str]:
    before = torch.load(tmp_path / "initial.pth", weights_only=True)
    after = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    parameters = dict(torchvision.models.resnet18().named_parameters())
    return {
        name
        for name in parameters
        if before[name].shape != after[name].shape or not torch.equal(before[name], after[name])
    }


def test_autograd_intro_one_step_of_the_whole_network_on_one_random_image(cli: Cli, tmp_path: Path) -> None:
    output, folder = run(cli, tmp_path, "autograd_intro")
    assert facts(folder)["steps"] == 1
    assert "network.conv1.weight.grad before backward: None" in output
    assert "network.conv1.weight.grad after backward: tensor([[[[" in output
    assert "changed by the step: 62 of 62 tensors" in output
    # Momentum does nothing in a first step, and this loss's gradient by each logit is 1: fc.bias moves by -lr exactly.
    before = torch.load(tmp_path / "initial.pth", weights_only=True)["fc.bias"]
    after = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["fc.bias"]
    assert torch.equal(after, before - 0.01)
    assert len(moved(tmp_path, folder)) == 62


def test_frozen_head_one_step_changes_only_the_two_new_tensors(cli: Cli, tmp_path: Path) -> None:
    output, folder = run(cli, tmp_path, "frozen_head")
    assert facts(folder)["steps"] == 1
    assert "network.conv1.weight.grad after backward: None" in output
    assert "changed by the step: 2 of 62 tensors" in output
    assert moved(tmp_path, folder) == {"fc.weight", "fc.bias"}
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["fc.weight"].shape == (10, 512)
    [optimizer] = checkpoint["optimizer_states"]
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == 2
    assert len(optimizer["state"]) == 2


def test_an_experiment_says_loudly_when_imagenet_weights_cannot_be_had_and_is_refused_where_they_would_be_frozen(
    cli: Cli, tmp_path: Path
) -> None:
    # A proxy that does not answer: no network, wherever the test runs.
    env = {"https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path / "empty")}
    refused = cli(*FROSTLINE, "train", "experiment=frozen_head", env=env)
    assert refused.returncode == 2
    assert "RANDOM weights" in refused.stderr
    assert "Traceback" not in refused.stderr
    shutil.rmtree(tmp_path / "runs")
    done = cli(*FROSTLINE, "train", "experiment=autograd_intro", "callbacks.progress_bar=false", env=env)
    assert done.returncode == 0, done.stderr
    assert "RANDOM weights" in done.stdout
    assert "RANDOM weights" in facts(only_run(tmp_path))["weights"]["warning"]  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_when_cut_short(experiment: str, cli: Cli, tmp_path: Path) -> None:
    short = ("trainer.limit_train_batches=1", "trainer.max_epochs=5", "trainer.limit_val_batches=1")
    words = (*short, "trainer.limit_test_batches=1", "model.weights=none", "callbacks.progress_bar=false")
    done = cli(sys.executable, str(ROOT / "train.py"), f"experiment={experiment}", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert facts(only_run(tmp_path))["steps"] == 5


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_says_what_to_expect_and_which_command_showed_it(experiment: str) -> None:
    lines = (ROOT / f"conf/experiment/{experiment}.yaml").read_text().splitlines()
    card = "\n".join(line for line in lines if line.startswith("#"))
    assert "\n# Expect: " in card
    assert f"\n# Command: python train.py experiment={experiment}" in card
