"""`batch_norm: recalibrate`: statistics of the new data, once, and then frozen."""

import copy
from typing import Any

import pytest
import torch
from freezing.tiny import TinyModule, images, seeded_net, trainer
from torch import nn
from torch.utils.data import DataLoader

from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.freezing.batch_norm import first_input, recalibrate


def test_statistics_are_the_plain_average_over_batches():
    net = seeded_net(dropout=0.5)
    batches = [torch.randn(6, 3, 8, 8) + index for index in range(3)]
    with torch.no_grad():
        outputs = [net.conv1(batch) for batch in batches]
    before = copy.deepcopy(net.state_dict())
    assert recalibrate(net, ["bn1"], forward=net, batches=batches) == 3
    means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variances = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(net.bn1.running_mean, means)
    torch.testing.assert_close(net.bn1.running_var, variances)
    assert net.bn1.num_batches_tracked == 3
    assert net.bn1.momentum == 0.1
    assert all(module.training for module in net.modules())
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"}


def test_without_data_it_is_refused_and_modes_are_put_back():
    net = seeded_net()
    with pytest.raises(ValueError, match="there was no batch"):
        recalibrate(net, ["bn1"], forward=net, batches=[])
    assert net.bn1.momentum == 0.1
    assert net.training


def run(policy: dict[str, Any], *, recalibration_batches: int = 50) -> tuple[TinyModule, FreezingSchedule, list[float]]:
    losses: list[float] = []

    class Module(TinyModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            losses.extend([float(batch[0].double().sum()), float(torch.rand(1))])
            return super().training_step(batch, batch_idx)

    torch.manual_seed(5)
    module = Module(seeded_net(dropout=0.3))
    torch.manual_seed(6)
    # Shuffled by the global generator and by one of its own: a fresh pass must disturb neither.
    data = DataLoader(images(24), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))
    schedule = FreezingSchedule(
        policy=FreezePolicy.from_dict(policy), attribute="net", recalibration_batches=recalibration_batches
    )
    trainer([schedule], max_epochs=2).fit(module, data)
    return module, schedule, losses


def test_a_fit_recalibrates_once_and_then_holds():
    module, schedule, _ = run({"train": ["head"], "batch_norm": "recalibrate"})
    assert module.net.bn1.num_batches_tracked == 6
    expected = images(24).tensors[0]
    with torch.no_grad():
        torch.testing.assert_close(
            module.net.bn1.running_mean, module.net.conv1(expected).mean((0, 2, 3)), rtol=1e-4, atol=1e-5
        )
    assert schedule.verdict()["held"]
    assert (
        run({"train": ["head"], "batch_norm": "recalibrate"}, recalibration_batches=2)[0].net.bn2.num_batches_tracked
        == 2
    )


def test_recalibration_disturbs_neither_the_order_of_the_data_nor_random_numbers_nor_its_own_repetition():
    plain = run({"train": ["head"]})[2]
    one, _, order = run({"train": ["head"], "batch_norm": "recalibrate"})
    other = run({"train": ["head"], "batch_norm": "recalibrate"})[0]
    assert order == plain
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_input_is_found_in_the_usual_batches_and_asked_for_in_others():
    images_ = torch.zeros(2, 3)
    assert first_input(images_) is images_
    assert first_input((images_, 1)) is images_
    assert first_input([images_, 1]) is images_
    with pytest.raises(ValueError, match=r"a mapping with image, label.*inputs=lambda batch"):
        first_input({"image": images_, "label": 1})


def test_the_module_s_own_forward_is_used_unless_inputs_are_given():
    seen: list[str] = []

    class Module(TinyModule):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append("forward" if not torch.is_grad_enabled() else "step")
            return super().forward(images)

    policy = FreezePolicy.static("head", batch_norm="recalibrate")
    data = DataLoader(images(8), batch_size=4)
    trainer([FreezingSchedule(policy=policy, attribute="net")], max_epochs=1).fit(Module(), data)
    assert seen == ["forward"] * 2 + ["step"] * 2
    seen.clear()
    inputs = FreezingSchedule(policy=policy, attribute="net", inputs=lambda batch: batch[0])
    trainer([inputs], max_epochs=1).fit(Module(), data)
    assert seen == ["step"] * 2


def test_instance_norms_with_statistics_count_as_batch_norms():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.Conv2d(4, 2, 1)
    )
    phase = FreezePolicy.static("2").resolve(net).phases[0]
    assert phase.frozen_batch_norms == {"1"}
