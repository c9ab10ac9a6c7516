import csv
import math

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from frostline.autograd.diagnose import findings_of
from frostline.autograd.flow import by_stage
from frostline.autograd.gradient_flow import GradientFlow, measure_gradients
from tests.quiet import quiet_trainer

KEYS = ("norm", "mean", "maximum", "zeros", "update_ratio", "noise")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.middle, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.middle(torch.tanh(self.body(x)))))


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = Net()
        self.net.body.requires_grad_(False)
        self.net.spare.requires_grad_(False)
        self.gradients = []

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append({name: p.grad.clone() for name, p in self.net.named_parameters() if p.grad is not None})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def data():
    generator = torch.Generator().manual_seed(2)
    images, targets = torch.rand(48, 6, generator=generator), torch.randint(3, (48,), generator=generator)
    return DataLoader(TensorDataset(images, targets), batch_size=4)


def fit(folder, *, every, module=None, loggers=None, **options):
    module = module or Module()
    trainer = quiet_trainer(
        default_root_dir=folder,
        max_steps=12,
        log_every_n_steps=1,
        logger=loggers or [CSVLogger(folder, name="", version="")],
        callbacks=[GradientFlow(every_n_steps=every, attribute="net")],
        **options,
    )
    trainer.fit(module, data())
    return module


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_scalars_have_stable_names_and_stand_at_the_steps_of_the_loss(tmp_path):
    fit(tmp_path, every=4)
    logged = [row for row in rows(tmp_path) if row["gradients/head/norm"]]
    assert [int(row["step"]) for row in logged] == [3, 7, 11]  # Lightning counts from 0
    losses = [int(row["step"]) for row in rows(tmp_path) if row["train/loss"]]
    assert set(losses) >= {3, 7, 11}
    names = {key for key in logged[0] if key.startswith("gradients/")}
    assert names == {f"gradients/{stage}/{key}" for stage in ("middle", "head") for key in KEYS}
    assert all(math.isfinite(float(row[name])) for row in logged for name in names)


def test_values_are_those_of_the_steps_gradient_and_its_neighbours_noise(tmp_path):
    module = fit(tmp_path, every=4)
    [first, *_] = [row for row in rows(tmp_path) if row["gradients/head/norm"]]
    flat = [torch.cat([g["head.weight"].flatten(), g["head.bias"]]) for g in module.gradients]
    before, now = flat[2], flat[3]
    assert float(first["gradients/head/norm"]) == pytest.approx(float(now.norm()), rel=1e-5)
    assert float(first["gradients/head/mean"]) == pytest.approx(float(now.abs().mean()), rel=1e-5)
    assert float(first["gradients/head/maximum"]) == pytest.approx(float(now.abs().max()), rel=1e-5)
    noise = (before - now).norm() / math.sqrt(2) / ((before + now) / 2).norm()
    assert float(first["gradients/head/noise"]) == pytest.approx(float(noise), rel=1e-4)


def test_the_update_ratio_is_what_the_step_did(tmp_path):
    weights = []

    class Recorded(Module):
        def on_before_optimizer_step(self, optimizer):
            weights.append(self.net.head.weight.detach().clone())

        def on_train_batch_end(self, *_):
            weights.append(self.net.head.weight.detach().clone())

    module = Recorded()
    nn.Module.__delattr__(module.net.head, "bias")
    module.net.head.bias = None
    fit(tmp_path, every=3, module=module)
    [first, *_] = [row for row in rows(tmp_path) if row["gradients/head/norm"]]
    old, new = weights[4], weights[5]  # the third step
    assert float(first["gradients/head/update_ratio"]) == pytest.approx(
        float((new - old).norm() / old.norm()), rel=1e-4
    )


def test_every_step_may_be_measured_and_the_first_has_no_noise(tmp_path):
    fit(tmp_path, every=1)
    logged = [row for row in rows(tmp_path) if row["gradients/head/norm"]]
    assert len(logged) == 12
    assert [bool(row["gradients/head/noise"]) for row in logged] == [False] + [True] * 11


def test_steps_are_counted_not_batches_when_gradients_accumulate(tmp_path):
    module = fit(tmp_path, every=2, accumulate_grad_batches=3, max_epochs=2)
    logged = [row for row in rows(tmp_path) if row["gradients/head/norm"]]
    assert [int(row["step"]) for row in logged] == [1, 3, 5, 7]
    both = torch.cat([module.gradients[1]["head.weight"].flatten(), module.gradients[1]["head.bias"]])
    assert float(logged[0]["gradients/head/norm"]) == pytest.approx(float(both.norm()), rel=1e-5)


def test_every_logger_gets_the_same_scalars(tmp_path):
    fit(tmp_path, every=4, loggers=[CSVLogger(tmp_path / name, name="", version="") for name in "ab"])
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert sum(bool(row["gradients/head/norm"]) for row in rows(tmp_path / "b")) == 3


def test_measuring_changes_nothing_in_training(tmp_path):
    measured = fit(tmp_path / "a", every=1)
    unmeasured = fit(tmp_path / "b", every=1000)
    for one, other in zip(measured.parameters(), unmeasured.parameters(), strict=True):
        assert torch.equal(one, other)


def test_between_the_intervals_nothing_is_measured(tmp_path, monkeypatch):
    import frostline.autograd.gradient_flow as module

    calls = []

    class Counted(module.Measurement):
        def __init__(self, *arguments, **options):
            calls.append("measure")
            super().__init__(*arguments, **options)

        def finish(self, **options):
            calls.append("finish")
            return super().finish(**options)

    monkeypatch.setattr(module, "Measurement", Counted)
    fit(tmp_path, every=6)
    assert calls == ["measure", "finish"] * 2


def test_a_trainable_stage_without_a_gradient_is_warned_about_once(tmp_path):
    module = Module()
    module.net.spare.requires_grad_(True)
    with pytest.warns(
        UserWarning, match="Step 4: spare receives no gradient although it is trainable: a bug"
    ) as record:
        fit(tmp_path, every=4, module=module)
    assert sum("spare" in str(warning.message) for warning in record) == 1


def test_a_frozen_stage_with_a_gradient_is_warned_about(tmp_path):
    class Stray(Module):
        def on_after_backward(self):
            self.net.spare.weight.grad = torch.zeros(2, 2)

    module = Stray()
    with pytest.warns(UserWarning, match="1 of spare's 2 tensors: each is frozen and yet holds a gradient: a bug"):
        fit(tmp_path, every=4, module=module)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: GradientFlow(every_n_steps=0), "every_n_steps must be at least 1, not 0"),
        (lambda folder: _fit_with(GradientFlow(attribute="network"), folder), "Module has no module `network`"),
        (lambda folder: _fit_with(GradientFlow(attribute="net"), folder, logger=False), "has no logger to write to"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


def _fit_with(callback, folder, logger=True):
    trainer = quiet_trainer(
        default_root_dir=folder, max_steps=1, logger=CSVLogger(folder) if logger else False, callbacks=[callback]
    )
    trainer.fit(Module(), data())


def batches():
    return [(images, targets) for images, targets in data()]


def test_measured_gradients_are_the_mean_over_the_batches_and_everything_is_put_back():
    network = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    network[0].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flows = {flow.name: flow for flow in measure_gradients(network, batches(), F.cross_entropy, optimizer)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert optimizer.state_dict()["state"] == {}
    assert all(parameter.grad is None for parameter in network.parameters())
    gradients = []
    for images, targets in batches():
        network.zero_grad()
        F.cross_entropy(network(images), targets).backward()
        gradients.append(network[2].weight.grad.clone())
    stacked = torch.stack(gradients)
    mean = stacked.mean(0)
    assert flows["2.weight"].norm == pytest.approx(float(mean.norm()), rel=1e-4)
    assert flows["2.weight"].update_ratio == pytest.approx(
        float(0.1 * mean.norm() / network[2].weight.detach().norm()), rel=1e-4
    )
    spread = ((stacked - mean) ** 2).sum() / (len(stacked) - 1)
    assert flows["2.weight"].noise == pytest.approx(float(spread.sqrt() / mean.norm()), rel=1e-4)
    assert flows["0.bias"].norm is None
    assert findings_of(by_stage(network, flows.values())) == []


def test_nothing_to_measure_is_refused():
    network = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="There is no batch"):
        measure_gradients(network, [], F.cross_entropy, optimizer)
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="The loss has no graph: every parameter is frozen"):
        measure_gradients(network, batches(), F.cross_entropy, optimizer)


def test_images_that_are_not_finite_are_named_and_nothing_is_measured():
    network = Net()
    images = torch.rand(4, 6)
    images[2, 1] = torch.nan
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(FloatingPointError, match=r"The loss is nan .*hold NaN or infinity: 1\."):
        measure_gradients(network, [(images, torch.zeros(4).long())], F.cross_entropy, optimizer)
