"""The callback in a plain LightningModule: what it binds to, reports, checks and refuses."""

import csv
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from freezing.tiny import TinyModule, TinyNet, fit, loader, phases, seeded_net, starts, trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from frostline.classifier import ImageClassifier
from frostline.data.spec import DataSpec
from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.options import TrainingOptions

HEAD = FreezePolicy.static("head")


def test_phase_changes_are_logged_as_tables_and_as_numbers(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "frostline.freezing"):
        schedule = fit(phases(until={"steps": 6}), logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=2)
    assert "Phase 2 of 3, `middle`, at step 6: 6 steps have passed." in caplog.text
    assert "conv2     185" in caplog.text
    with Path(tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["freezing/phase"]]
    columns = {
        "step": ["0", "6", "12"],
        "freezing/phase": ["0", "1", "2"],
        "freezing/frost_line": ["4", "2", "0"],
        "freezing/trainable_parameters": ["18", "203", "333"],
        "freezing/frozen_parameters": ["315", "130", "0"],
        "freezing/lr/conv2": ["0.0", "0.1", "0.1"],
        "freezing/trainable/conv2": ["0", "185", "185"],
    }
    assert {name: [row[name] for row in rows] for name in columns} == columns
    assert schedule.history[1]["lr/head"] == 0.1
    assert schedule.history[1]["reason"] == "6 steps have passed"


def test_the_network_is_the_whole_module_by_default():
    schedule = fit(FreezePolicy.static("net.head"), attribute=None)
    assert schedule.phase.trainable == {"net.head.weight", "net.head.bias"}


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (None, r"`head` matches no parameter.*give FreezingSchedule attribute='net'"),
        ("nett", "TinyModule has no attribute `nett`. Did you mean `net`"),
        ("make_optimizer", "is no module"),
    ],
)
def test_a_wrong_attribute_is_refused(attribute, message):
    with pytest.raises(ValueError, match=message):
        fit(HEAD, attribute=attribute)


class Deferred(TinyModule):
    """Makes its network in `configure_model`, as very large ones are."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def configure_model(self) -> None:
        if isinstance(self.net, nn.Identity):
            self.net = seeded_net()


def test_a_network_made_in_configure_model():
    schedule = fit(phases(until={"epochs": 1}), module=Deferred())
    assert starts(schedule) == [("head", 0, 0), ("middle", 4, 1), ("all", 8, 2)]
    assert schedule.verdict()["held"]


def test_a_resolved_policy_is_used_as_it_is():
    module = TinyModule()
    resolved = HEAD.resolve(module.net, always_trainable=["conv2"])
    schedule = fit(resolved, module=module)
    assert schedule.resolved is resolved
    assert schedule.phase.trainable == {"conv2.weight", "conv2.bias", "head.weight", "head.bias"}
    with pytest.raises(ValueError, match=r"give it to policy\.resolve"):
        FreezingSchedule(policy=resolved, always_trainable=["conv1"])


def test_a_classifier_resolves_its_policy_once():
    spec = DataSpec(classes=["a", "b", "c"], mean=[0.5] * 3, std=[0.5] * 3, image_size=8)
    training = TrainingOptions(optimizer=partial(torch.optim.SGD, lr=0.01))
    classifier = ImageClassifier(network=seeded_net(), data_spec=spec, policy=HEAD, training=training)
    trainer([], max_epochs=1, use_distributed_sampler=False).fit(classifier, loader(1), loader(1))
    [schedule] = [entry for entry in classifier.configure_callbacks() if isinstance(entry, FreezingSchedule)]
    assert schedule.resolved is classifier.resolved


def test_an_optimizer_that_lacks_what_will_train_is_refused():
    module = TinyModule()
    module.configure_optimizers = lambda: torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(ValueError, match=r"The optimizer lacks `conv1.weight` and 7 more.*without a filter"):
        fit(phases(until={"steps": 2}), module=module)


def test_manual_optimization_is_refused():
    module = TinyModule()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="needs automatic optimization"):
        fit(HEAD, module=module)


def test_lightnings_warning_of_eval_mode_still_comes_for_other_modules():
    module = TinyModule()
    module.teacher = nn.BatchNorm1d(2).eval()
    with pytest.warns(UserWarning, match="in eval mode at the start of training"):
        fit(HEAD, module=module)


class Spare(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)


def test_parameters_without_gradient_are_named_and_can_be_allowed():
    message = r"Phase `static`: spare.weight, spare.bias: in training, but without a gradient"
    with pytest.raises(RuntimeError, match=message):
        fit(FreezePolicy.static("all"), module=TinyModule(Spare()))
    allowed = fit(FreezePolicy.static("all"), module=TinyModule(Spare()), options={"allow_unused": ["spare"]})
    frozen = fit(FreezePolicy.static("all", "!spare"), module=TinyModule(Spare()))
    assert [entry.verdict()["held"] for entry in (allowed, frozen)] == [True, True]


def test_parameters_behind_a_detached_tensor_are_named():
    class Detached(TinyModule):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = torch.relu(self.net.bn1(self.net.conv1(images)))
            features = torch.relu(self.net.bn2(self.net.conv2(features.detach())))
            return self.net.head(features.mean((2, 3)))

    with pytest.raises(RuntimeError, match=r"conv1.weight, conv1.bias, bn1.weight, bn1.bias: in training, but without"):
        fit(FreezePolicy.static("all"), module=Detached())


def test_wrong_options_are_refused():
    for wrong in ({"on_mismatch": "ignore"}, {"recalibration_batches": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
            FreezingSchedule(policy=HEAD, **wrong)
