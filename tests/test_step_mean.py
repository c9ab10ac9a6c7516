"""One mean over all images of an optimizer step: one process, two and accumulated batches train the same network."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from step_mean_runs import LOSSES, WAYS, WAYS_OF_TWO, run

from tests.preloaded import run_ranks

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {loss: run(loss, *WAYS["whole"]) for loss in LOSSES}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found["losses"].shape == (3,)
    for what in wanted:
        torch.testing.assert_close(found[what], wanted[what], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "whole"])
def test_accumulated_batches_train_as_the_whole_one(loss: str, way: str, whole: dict[str, Any]) -> None:
    assert_same(run(loss, *WAYS[way]), whole[loss])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], Any]]:
    out = tmp_path_factory.mktemp("ranks")
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    output = tmp_path_factory.mktemp("output")
    for rank in run_ranks([sys.executable, "-m", "step_mean_runs", out], output=output, env=environment):
        assert rank.returncode == 0, rank.stderr[-4000:]
    return [torch.load(out / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", WAYS_OF_TWO)
def test_two_processes_train_as_one(
    loss: str, way: str, whole: dict[str, Any], ranks: list[dict[tuple[str, str], Any]]
) -> None:
    for rank in ranks:
        assert_same(rank[loss, way], whole[loss])


def test_the_matrix_tells_a_mean_of_means_apart(whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the class, weighted losses and an epoch's last window differ by far more than rounding."""
    from frostline.optimizer_step import StepMean

    monkeypatch.setattr(StepMean, "correction", lambda *_, **__: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run("weights", *WAYS["accumulated"])
    assert (found["weights"] - whole["weights"]["weights"]).abs().max() > 1e-4
