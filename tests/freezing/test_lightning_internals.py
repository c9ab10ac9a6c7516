"""Averages of weights leave equal numbers unchanged; strategies are refused."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from torch.optim.swa_utils import get_ema_avg_fn

from frostline.freezing.lightning_internals import ExactAverage, check_strategy


def test_the_average_of_equal_numbers_is_that_number():
    weights = torch.randn(1000)
    plain = get_ema_avg_fn(0.999)
    averaged = weights.clone()
    for _ in range(20):
        averaged = plain(averaged, weights, 1)
    assert not torch.equal(averaged, weights), "torch's own average rounds; otherwise this wrapper could go"
    assert torch.equal(ExactAverage(plain)(weights, weights, 1), weights)


def test_different_numbers_are_averaged_as_before():
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    assert torch.equal(ExactAverage(get_ema_avg_fn(0.5))(one, other, 1), torch.tensor([2.0, 2.0]))


def test_counters_stay_whole():
    """`num_batches_tracked`: 0.999 * 7 + 0.001 * 7 may come out below 7, and would be cut off to 6."""
    counts = torch.arange(1, 2000)
    assert torch.equal(ExactAverage(get_ema_avg_fn(0.999))(counts, counts, 1), counts)


@pytest.mark.parametrize(
    ("strategy", "phases", "message"),
    [
        (DDPStrategy(static_graph=True), 2, "static_graph=True assumes"),
        (DDPStrategy(static_graph=True), 1, None),
        (DDPStrategy(), 2, None),
        (DDPStrategy(find_unused_parameters=True), 2, None),
        (FSDPStrategy.__new__(FSDPStrategy), 1, "FSDP1.*flattens"),
        (DeepSpeedStrategy.__new__(DeepSpeedStrategy), 1, "does not run under DeepSpeed"),
    ],
    ids=["static graph", "static graph, one phase", "ddp", "unused", "fsdp1", "deepspeed"],
)
def test_strategies_under_which_freezing_would_not_hold_are_refused(strategy, phases, message):
    expected = nullcontext() if message is None else pytest.raises(ValueError, match=message)
    with expected:
        check_strategy(SimpleNamespace(strategy=strategy), phases=phases)
