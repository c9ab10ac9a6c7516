"""Writes to frozen tensors and modes are noticed or undone, in whatever hook or step of a fit they happen."""

import logging
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from freezing.tiny import TinyModule, fit, loader, trainer
from torch import nn

from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.freezing.checks import FrozenTensorChanged

HEAD = FreezePolicy.static("head")


def write(trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
    """Negates some frozen weights."""
    with torch.no_grad():
        pl_module.net.conv1.weight.view(-1)[1::2].neg_()


class Writes(pl.Callback):
    """Writes in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, write)


class WritesItself(TinyModule):
    """A module that writes in one of its own hooks."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        setattr(self, hook, lambda *_, **__: write(None, self))


HOOKS = ["on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end",
         "on_validation_end", "on_train_epoch_end", "on_train_end", "on_fit_end", "teardown"]  # fmt: skip


@pytest.mark.parametrize("where", ["before", "callbacks", "module"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_write_in_any_hook_is_noticed(hook, where):
    in_module = where == "module"
    callbacks = {} if in_module else {where: [Writes(hook)]}
    schedule = FreezingSchedule(policy=HEAD, attribute="net")
    # An odd number of writes: two would undo each other.
    settings = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    ours = trainer([*callbacks.get("before", []), schedule, *callbacks.get("callbacks", [])], **settings)
    with pytest.raises(FrozenTensorChanged, match=r"conv1\.weight"):
        ours.fit(WritesItself(hook) if in_module else TinyModule(), loader(1), loader(1))
    verdict = schedule.verdict()
    assert not verdict["held"]
    assert verdict["audits"][-1]["moved"] == ["conv1.weight"]


@pytest.mark.parametrize("place", ["before", "callbacks"])
def test_weights_loaded_in_setup_are_the_frozen_ones(place):
    assert fit(HEAD, max_epochs=1, batches=1, **{place: [Writes("setup")]}).verdict()["held"]


def test_a_write_before_the_run_fails_is_in_the_verdict(caplog):
    class Fails(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            raise ArithmeticError

    schedule = FreezingSchedule(policy=HEAD, attribute="net")
    ours = trainer([Writes("on_train_batch_end"), schedule, Fails()], max_epochs=1)
    with caplog.at_level(logging.ERROR), pytest.raises(ArithmeticError):
        ours.fit(TinyModule(), loader(1))
    assert schedule.verdict()["audits"][-1]["moved"] == ["conv1.weight"]
    assert "conv1.weight" in caplog.text


def test_a_second_fit_has_one_audit_of_the_whole_run():
    schedule = FreezingSchedule(policy=HEAD, attribute="net")
    ours, module = trainer([schedule, Writes("unused")], max_epochs=1), TinyModule()
    ours.fit(module, loader(1))
    ours.fit_loop.max_epochs = 2
    ours.fit(module, loader(1))
    assert len(ours.callbacks) == 3
    assert [entry["reason"] for entry in schedule.verdict()["audits"]] == ["end of fit", "resume", "end of fit"]


class SetsModes(TinyModule):
    """Puts frozen modules into training mode inside its steps; `in_parts`: without a call of the network's forward."""

    def __init__(self, way: Any, in_parts: bool) -> None:
        super().__init__()
        self.way, self.in_parts = way, in_parts

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.way(self.net)
        if not self.in_parts:
            return super().forward(images)
        features = torch.relu(self.net.bn1(self.net.conv1(images)))
        return self.net.head(torch.relu(self.net.bn2(self.net.conv2(features))).mean((2, 3)))


WAYS = {
    "train": lambda net: net.bn1.train(),
    "apply": lambda net: net.apply(lambda module: module.train()),
    "flag": lambda net: setattr(net.bn1, "training", True),
    "class": lambda net: nn.BatchNorm2d.train(net.bn1),
}


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "parts"])
@pytest.mark.parametrize("way", WAYS)
def test_frozen_statistics_stay_however_a_step_sets_modes(way, in_parts):
    module = SetsModes(WAYS[way], in_parts)
    before = {name: value.clone() for name, value in module.net.state_dict().items()}
    assert fit(HEAD, module=module, max_epochs=1).verdict()["held"]
    changed = {name for name, value in module.net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own compiler
def test_frozen_statistics_of_a_compiled_network_stay_when_a_step_calls_train():
    module = SetsModes(WAYS["apply"], in_parts=False)
    before = module.net.bn1.running_mean.clone()
    module.net.compile(backend="aot_eager")
    assert fit(HEAD, module=module, max_epochs=1).verdict()["held"]
    assert torch.equal(module.net.bn1.running_mean, before)
