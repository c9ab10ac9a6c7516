"""Promise 1: a frozen tensor is bit-identical after any number of steps, whatever the run does around it."""

import copy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from freezing.tiny import TinyModule, loader, seeded_net, trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn

from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.freezing.checks import FrozenTensorChanged

HEAD_ONLY = {"train": ["head"]}
AGAIN = {
    "phases": [
        {"name": "all", "train": ["all"], "until": {"steps": 5}},
        {"name": "head", "train": ["head"], "until": {"steps": 6}},
        {"name": "head still", "train": ["head", "conv2"]},
    ]
}


class Snapshots(pl.Callback):
    """All tensors at the start of each phase and at its end."""

    def __init__(self, schedule: FreezingSchedule) -> None:
        self.schedule = schedule
        self.starts: dict[str, dict[str, torch.Tensor]] = {}
        self.ends: dict[str, dict[str, torch.Tensor]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.starts.setdefault(self.schedule.phase.name, copy.deepcopy(pl_module.net.state_dict()))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.ends[self.schedule.phase.name] = copy.deepcopy(pl_module.net.state_dict())


class Careless(TinyModule):
    """Calls `train()` wherever it can, on everything."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.train()
        self.net.train()
        for module in self.modules():
            module.train()
        return super().training_step(batch, batch_idx)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.3)


WAYS = {
    "momentum and decay": {},
    "adamw": {"optimizer": adamw},
    "clipping": {"gradient_clip_val": 0.01},
    "clipping by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "accumulation": {"accumulate_grad_batches": 3},
    "bf16": {"precision": "bf16-mixed"},
    "careless": {"module": Careless},
    "moving average": {"callbacks": [EMAWeightAveraging]},
    "swa": {"callbacks": [lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=0.5)]},
}


@pytest.mark.parametrize("policy", [HEAD_ONLY, AGAIN], ids=["frozen", "frozen again"])
@pytest.mark.parametrize("way", WAYS)
# SWA announces what it does to the scheduler.
@pytest.mark.filterwarnings("ignore:Swapping scheduler")
def test_frozen_tensors_are_bit_identical(way, policy):
    settings = dict(WAYS[way])
    module = settings.pop("module", TinyModule)(seeded_net(dropout=0.2), settings.pop("optimizer", sgd))
    schedule = FreezingSchedule(policy=FreezePolicy.from_dict(policy), attribute="net")
    snapshots = Snapshots(schedule)
    more = [make() for make in settings.pop("callbacks", [])]
    before = copy.deepcopy(module.net.state_dict())
    ours = trainer([schedule, snapshots, *more], max_epochs=6, **settings)
    ours.fit(module, loader(), loader(2))
    for phase in schedule.resolved.phases:
        start, end = snapshots.starts[phase.name], snapshots.ends[phase.name]
        changed = {name for name in start if not torch.equal(start[name], end[name])}
        statistics = {name for name in start if "running" in name or "tracked" in name}
        # A batch norm that trains changes its statistics, too.
        assert changed == phase.trainable | (statistics if phase.name == "all" else set()), phase.name
    if policy is HEAD_ONLY:
        after = module.net.state_dict()
        assert {name for name in before if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}
    assert schedule.verdict()["held"]
    assert schedule.verdict()["tensors_compared"] == sum(
        len(start) - len(phase.trainable) - (6 if phase.name == "all" else 0)
        for phase, start in zip(schedule.resolved.phases, snapshots.starts.values(), strict=True)
    )


def test_validation_test_and_predict_touch_neither_flags_nor_tensors():
    module = TinyModule()
    schedule = FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")
    ours = trainer([schedule], max_epochs=1)
    ours.fit(module, loader(), loader(2))
    flags = {name: entry.requires_grad for name, entry in module.named_parameters()}
    tensors = copy.deepcopy(module.state_dict())
    ours.validate(module, loader(2), verbose=False)
    ours.test(module, loader(2), verbose=False)
    ours.predict(module, loader(2))
    assert {name: entry.requires_grad for name, entry in module.named_parameters()} == flags
    assert all(torch.equal(value, tensors[name]) for name, value in module.state_dict().items())


def test_validation_before_any_fit_touches_no_flag():
    module = TinyModule()
    schedule = FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")
    trainer([schedule]).validate(module, loader(2), verbose=False)
    assert all(entry.requires_grad for entry in module.parameters())


class Meddler(pl.Callback):
    """Writes to one tensor at one step."""

    def __init__(self, name: str, step: int) -> None:
        self.name, self.step = name, step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            tensor = dict(pl_module.named_parameters()) | dict(pl_module.named_buffers())
            with torch.no_grad():
                tensor[self.name].view(-1)[-1] += 1


@pytest.mark.parametrize("name", ["net.conv1.bias", "net.bn2.running_var", "net.bn1.num_batches_tracked"])
@pytest.mark.parametrize("step", [2, 7])
def test_the_audit_stops_a_run_in_which_a_frozen_tensor_changed(name, step):
    policy = FreezePolicy.from_dict(
        {"phases": [{"name": "a", "train": ["head"], "until": {"steps": 4}}, {"name": "b", "train": ["conv2", "head"]}]}
    )
    schedule = FreezingSchedule(policy=policy, attribute="net")
    with pytest.raises(FrozenTensorChanged, match=rf"phase `{'a' if step == 2 else 'b'}`.*{name.removeprefix('net.')}"):
        trainer([schedule, Meddler(name, step)], max_epochs=2).fit(TinyModule(), loader())
    assert schedule.verdict()["held"] is False
    assert schedule.verdict()["audits"][-1]["moved"] == [name.removeprefix("net.")]


def test_a_flag_set_by_another_callback_stops_the_run():
    class Unfreezes(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pl_module.net.conv2.requires_grad_(True)

    schedule = FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")
    with pytest.raises(RuntimeError, match=r"requires_grad of conv2.weight, conv2.bias was changed outside"):
        trainer([schedule, Unfreezes()], max_epochs=1).fit(TinyModule(), loader())


def test_half_precision_with_a_scaler():
    """`16-mixed` on CPU: torch's GradScaler has state of its own, and skips steps while it looks for its scale."""
    module = TinyModule(optimizer=sgd)
    schedule = FreezingSchedule(policy=FreezePolicy.from_dict(AGAIN), attribute="net")
    plugin = pl.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    ours = trainer([schedule], max_epochs=4, plugins=[plugin])
    ours.fit(module, loader())
    assert plugin.scaler.state_dict()["_growth_tracker"] > 0
    assert schedule.verdict()["held"]
    assert [entry["step"] for entry in schedule.history] == [0, 5, 11]


def test_frozen_modules_without_batch_norm_are_held_too():
    module = TinyModule(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    schedule = FreezingSchedule(policy=FreezePolicy.static("3"), attribute="net")
    trainer([schedule], max_epochs=1).fit(module, loader())
    assert schedule.verdict()["tensors_compared"] == 2
