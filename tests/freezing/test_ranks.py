"""Promises 3 and 4 under DDP: two processes that see different data train one network in every phase.

One pair of gloo processes runs all cases (`ranks.py`); the tests read what each rank wrote down.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from freezing.ranks import CASES, LIBRARY, RESUMED, library_case, run

from tests.preloaded import run_ranks

TESTS = Path(__file__).parent.parent
JOINED = [name for name, case in CASES.items() if case.joined]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Path:
    return on_two_ranks(tmp_path_factory.mktemp("ranks"))


def on_two_ranks(out: Path, *names: str) -> Path:
    """The folder with the results of both ranks."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    output = out.with_name(f"{out.name}-output")
    output.mkdir()
    command = [sys.executable, "-m", "freezing.ranks", out, *names]
    for rank in run_ranks(command, output=output, env=environment, seconds=540):
        assert rank.returncode == 0, rank.stderr[-6000:]
    return out


def both(ranks: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(ranks / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("name", CASES)
def test_ranks_are_bit_identical_in_every_phase(ranks, name):
    check_equal(CASES[name], *both(ranks, name))


@pytest.mark.slow
def test_ranks_of_library_networks_are_bit_identical_in_every_phase(tmp_path):
    on_two_ranks(tmp_path, *LIBRARY)
    for name in LIBRARY:
        one, other = both(tmp_path, name.replace("/", "-"))
        assert one["losses"] != other["losses"]
        check_equal(library_case(name), one, other)
        assert differing(one["phases"][-1][2], one["final"]) != []


def check_equal(case, one, other):
    assert len(one["phases"]) == len(case.policy["phases"])
    for (phase, step, tensors), (other_phase, other_step, other_tensors) in zip(
        one["phases"], other["phases"], strict=True
    ):
        assert (phase, step) == (other_phase, other_step)
        # Statistics of a batch norm that follows its own rank's data are equal again at the next phase's broadcast.
        assert differing(tensors, other_tensors) == []
    parameters = [name for name, _ in case.network().named_parameters()]
    assert differing({key: one["final"][key] for key in parameters}, other["final"]) == []
    assert one["verdict"]["held"]
    assert other["verdict"]["held"]


@pytest.mark.parametrize("name", CASES)
def test_ranks_saw_different_data(ranks, name):
    one, other = both(ranks, name)
    assert one["losses"] != other["losses"]


@pytest.mark.parametrize("name", JOINED)
def test_ranks_equal_one_process_on_the_joined_batch(ranks, name):
    one = both(ranks, name)[0]
    alone = run(CASES[name], None)
    assert [entry[:2] for entry in one["phases"]] == [entry[:2] for entry in alone["phases"]]
    for name, tensor in alone["final"].items():
        torch.testing.assert_close(one["final"][name], tensor, rtol=1e-4, atol=2e-6, msg=lambda text: f"{name}: {text}")  # noqa: B023


def test_every_phase_trained_what_it_names(ranks):
    one = both(ranks, "steps")[0]
    starts = {phase: tensors for phase, _, tensors in one["phases"]}
    assert differing(starts["head"], starts["middle"]) == ["head.weight", "head.bias"]
    assert differing(starts["middle"], starts["weights"]) == ["conv2.weight", "conv2.bias", "head.weight", "head.bias"]


def test_a_metric_phase_ends_at_once_on_all_ranks_by_the_mean_of_their_values(ranks):
    one, other = both(ranks, "metric")
    assert one["history"] == other["history"]
    assert "val/loss" in one["history"][1]["reason"]


def test_unfreezing_without_a_new_reducer_is_an_error_on_both_ranks(ranks):
    for result in both(ranks, "unreduced"):
        assert "Phase `middle`: conv2.weight, conv2.bias: the ranks have different gradients" in result["error"]
        assert "head" not in result["error"]


@pytest.mark.parametrize("name", [name for name in RESUMED if name != "fsdp2"])
def test_two_ranks_resumed_from_any_step_equal_the_uninterrupted_run(ranks, name):
    for result in both(ranks, f"resumed_{name}"):
        whole, again = result["whole"], result["again"]
        assert len(again) >= 3
        for step, resumed in again.items():
            assert differing(whole["final"], resumed["final"]) == [], step
            assert resumed["history"] == whole["history"], step
            assert str(resumed["optimizer"]) == str(whole["optimizer"]), step


def test_fsdp2_resumes_exactly_in_the_first_phase_and_is_refused_in_a_later_one(ranks):
    """Lightning loads the optimizer of a sharded run before any callback, and drops what was frozen at the start."""
    for result in both(ranks, "resumed_fsdp2"):
        whole, again = result["whole"], result["again"]
        resumed = {step for step, run in again.items() if "refused" not in run}
        assert resumed == {"step=1", "step=3"}
        assert all(differing(whole["final"], again[step]["final"]) == [] for step in resumed)
        assert "can be resumed in its first phase only" in again["step=5"]["refused"]
