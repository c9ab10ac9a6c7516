"""Learning rates: scheduler x factor x warm-up, under every torch scheduler, and never in the scheduler's way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from freezing.tiny import TinyModule, loader, seeded_net, trainer
from torch.optim import SGD, lr_scheduler

from frostline.freezing import FreezePolicy, FreezingSchedule
from frostline.freezing.learning_rates import PhaseLRMultiplier, warmup_factor
from frostline.optim import parameter_groups

POLICY = FreezePolicy.from_dict(
    {
        "phases": [
            {"name": "head", "train": ["head"], "until": {"steps": 5}, "lr": {"head": 2.0}},
            {"name": "more", "train": ["conv2", "head"], "until": {"steps": 6}, "warmup_steps": 4},
            {"name": "all", "train": ["all"], "lr_decay": 0.5, "warmup_steps": 2},
        ]
    }
)
STEPS = 16

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [4, 9]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 10),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, STEPS),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 7),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS + 1),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.ExponentialLR(o, 0.8)], [4]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.ExponentialLR(o, 0.8)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, anneal_epochs=5),
}


def expected_factor(name: str, step: int) -> float | None:
    """By hand: what multiplies the scheduler's rate for each part of the network; None while it is frozen."""
    if step < 5:
        return {"head": 2.0}.get(name)
    if step < 11:
        return {"head": 1.0, "conv2": min(1.0, (step - 4) / 4)}.get(name)
    decay = 0.5 ** (4 - ["conv1", "bn1", "conv2", "bn2", "head"].index(name))
    return decay * (1.0 if name in ("conv2", "head") else min(1.0, (step - 10) / 2))


def test_every_torch_scheduler_is_listed():
    known = {"LRScheduler", "_LRScheduler", "Optimizer", "Counter", "Tensor"}
    there = {name for name in lr_scheduler.__all__ if name not in known}
    assert there - {"LRScheduler"} == set(SCHEDULERS) - {"SWALR"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rate_of_a_step_is_scheduler_times_factor_times_warmup(name):
    """The scheduler runs as it would without freezing, also those that compute the next rate from the last."""
    lonely = SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(5)], lr=0.1, momentum=0.9)
    reference = SCHEDULERS[name](lonely)
    used: list[dict[str, float]] = []
    plain: list[float] = []
    watched = name != "ReduceLROnPlateau"

    class Module(TinyModule):
        def configure_optimizers(self) -> Any:
            groups = parameter_groups(self.net, resolved=POLICY.resolve(self.net), lr=0.1)
            optimizer = SGD(groups, momentum=0.9)
            scheduler = {"scheduler": SCHEDULERS[name](optimizer), "interval": "step"}
            optimizer.register_step_post_hook(
                lambda running, *_: used.append({group["name"]: float(group["lr"]) for group in running.param_groups})
            )
            return [optimizer], [scheduler if watched else {**scheduler, "monitor": "x", "strict": True}]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("x", 1.0)
            return super().training_step(batch, batch_idx)

    schedule = FreezingSchedule(policy=POLICY, attribute="net")
    trainer([schedule], max_steps=STEPS, max_epochs=-1).fit(Module(seeded_net()), loader())
    for _ in range(STEPS):
        plain.append(lonely.param_groups[0]["lr"])
        lonely.step()
        if watched:
            reference.step()
        else:
            reference.step(1.0)
    assert [entry["step"] for entry in schedule.history] == [0, 5, 11]
    for step, (rates, base) in enumerate(zip(used, plain, strict=True)):
        for part, rate in rates.items():
            factor = expected_factor(part, step)
            assert factor is None or rate == pytest.approx(base * factor, rel=1e-12), (step, part)


def factors(network: Any, groups: Any, resolved: Any, position: Any) -> list[float]:
    """The factor of each parameter group in a phase at a step."""
    optimizer = SGD([dict(group) for group in groups], lr=1.0)
    warmups = [phase.warmup_steps for phase in resolved.phases]
    return PhaseLRMultiplier(
        optimizer=optimizer,
        network=network,
        resolved=resolved,
        position=lambda: position,
        warmup_steps=warmups.__getitem__,
    ).factors()


def halved(optimizer: Any) -> PhaseLRMultiplier:
    """The multiplier of an optimizer of one parameter, whose rate is halved."""
    network = torch.nn.Module()
    network.weight = optimizer.param_groups[0]["params"][0]
    resolved = FreezePolicy.from_dict({"train": ["all"], "lr": {"all": 0.5}}).resolve(network)
    return PhaseLRMultiplier(
        optimizer=optimizer,
        network=network,
        resolved=resolved,
        position=lambda: (0, [(0, 0)], 0),
        warmup_steps=lambda index: 0,
    )


def test_warmup_rises_to_one():
    assert [warmup_factor(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_factor(0, 0) == 1.0


def test_a_warmup_goes_on_through_the_next_phase():
    policy = FreezePolicy.from_dict(
        {
            "phases": [
                {"name": "a", "train": ["head"], "until": {"steps": 2}, "warmup_steps": 8},
                {"name": "b", "train": ["head", "conv2"]},
            ]
        }
    )
    net = seeded_net()
    resolved = policy.resolve(net)
    groups = parameter_groups(net, resolved=resolved, lr=1.0)
    assert [group["name"] for group in groups] == ["conv2", "head"]
    assert factors(net, groups, resolved, (0, [(0, 0)], 1)) == [1.0, 2 / 8]
    assert factors(net, groups, resolved, (1, [(0, 0), (2, 0)], 3)) == [1.0, 4 / 8]


def test_a_refrozen_part_warms_up_again_when_it_is_unfrozen():
    phases = [("a", ["all"]), ("b", ["head"]), ("c", ["all"])]
    policy = FreezePolicy.from_dict(
        {
            "phases": [
                {"name": name, "train": train, "warmup_steps": 10, **({"until": {"steps": 20}} if name != "c" else {})}
                for name, train in phases
            ]
        }
    )
    net = seeded_net()
    resolved = policy.resolve(net)
    groups = parameter_groups(net, resolved=resolved, lr=1.0)
    found = factors(net, groups, resolved, (2, [(0, 0), (20, 0), (40, 0)], 40))
    by_name = dict(zip((group["name"] for group in groups), found, strict=True))
    assert (by_name["head"], by_name["conv1"]) == (1.0, 0.1)


def test_one_group_for_all_is_fine_until_rates_differ():
    net = seeded_net()
    groups = [{"params": list(net.parameters())}]
    plain = FreezePolicy.from_dict({"train": ["conv2", "head"], "lr": {"conv2": 0.5, "head": 0.5}}).resolve(net)
    assert factors(net, groups, plain, (0, [(0, 0)], 0)) == [0.5]
    with pytest.raises(ValueError, match=r"holds `conv2.weight` and `head.weight`.*frostline.optim.parameter_groups"):
        factors(net, groups, POLICY.resolve(net), (0, [(0, 0)], 0))


def test_an_error_within_a_step_leaves_the_schedulers_rate_to_be_saved():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = SGD([parameter], lr=0.1)
    layer = halved(optimizer)
    seen = []

    def closure() -> Any:
        seen.append(optimizer.param_groups[0]["lr"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert seen == [0.05]
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.05)
    assert optimizer.param_groups[0]["lr"] == 0.1
    layer.remove()
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.05 - 0.1)


def test_a_tensor_learning_rate_is_put_back_as_the_same_object():
    parameter = torch.nn.Parameter(torch.ones(1))
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([parameter], lr=rate, foreach=False)
    halved(optimizer)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is rate
