"""What torch.compile cost, in words and in a run."""

import logging
import re

import pytest
import torch
from tests.quiet import quiet_trainer
from torch import nn

from frostline.tracking.compile_cost import CompileCost, cost_text


def test_the_break_even_is_the_cost_over_what_a_step_saves() -> None:
    text = cost_text(cost=20.0, eager=0.3, compiled=0.2, steps=1000)
    assert text == (
        "torch.compile took 20 s; a step takes 200 ms instead of 300 ms. Break-even after 200 steps; this run has "
        "1,000, so it pays back."
    )


def test_a_run_that_is_too_short_gets_a_message() -> None:
    assert cost_text(cost=20.0, eager=0.3, compiled=0.2, steps=150).endswith(
        "this run has 150, so it does not pay back: trainer.compile=false is faster."
    )


def test_what_is_not_faster_never_pays_back() -> None:
    assert "never pays back" in cost_text(cost=20.0, eager=0.2, compiled=0.2, steps=10**9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own, which differ from release to release
def test_a_compiled_run_says_what_it_cost_and_is_not_changed_by_the_look(caplog: pytest.LogCaptureFixture) -> None:
    from tests.test_fast_path import classifier_of, datamodule

    states = []
    for watch in ([CompileCost()], []):
        torch.compiler.reset()
        data = datamodule()
        classifier = classifier_of(data, policy=None)
        classifier.network.compile()
        trainer = quiet_trainer(max_epochs=2, devices=1, callbacks=watch, use_distributed_sampler=False)
        torch.manual_seed(0)
        with caplog.at_level(logging.INFO):
            trainer.fit(classifier, datamodule=data)
        states.append(classifier.network.state_dict())
    [line] = [record.getMessage() for record in caplog.records if "torch.compile took" in record.getMessage()]
    assert int(re.search(r"took (\d+) s", line)[1]) >= 1
    assert isinstance(classifier.network, nn.Module)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
