"""Promise 5: phases change correctly under torch.compile, in either form."""

from typing import Any

import pytest
import torch
from freezing.tiny import TinyModule, loader, seeded_net, trainer

from frostline.freezing import FreezePolicy, FreezingSchedule

pytestmark = [
    # Raised inside torch's own compiler.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

POLICY = FreezePolicy.from_dict(
    {
        "phases": [
            {"name": "head", "train": ["head"], "until": {"steps": 3}},
            {"name": "all", "train": ["all", "!@BatchNorm2d"], "until": {"steps": 3}},
            {"name": "head again", "train": ["head"]},
        ]
    }
)


def network_in_place(module: TinyModule) -> Any:
    module.net.compile(backend="aot_eager")
    return module


def network_wrapped(module: TinyModule) -> Any:
    module.net = torch.compile(module.net, backend="aot_eager")
    return module


def whole_module(module: TinyModule) -> Any:
    return torch.compile(module, backend="aot_eager")


def run(form: Any) -> tuple[dict[str, torch.Tensor], FreezingSchedule]:
    module = TinyModule(seeded_net())
    net = module.net
    schedule = FreezingSchedule(policy=POLICY, attribute="net")
    trainer([schedule], max_epochs=2).fit(form(module), loader(), loader(1))
    return net.state_dict(), schedule


@pytest.mark.parametrize(
    "form",
    [
        network_in_place,
        pytest.param(network_wrapped, marks=pytest.mark.slow),
        pytest.param(whole_module, marks=pytest.mark.slow),
    ],
    ids=lambda form: form.__name__,
)
def test_a_compiled_network_trains_as_the_plain_one(form):
    plain, _ = run(lambda module: module)
    compiled, schedule = run(form)
    assert [entry["step"] for entry in schedule.history] == [0, 3, 6]
    assert schedule.verdict()["held"]
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_inductor_too():
    plain, _ = run(lambda module: module)
    compiled, schedule = run(lambda module: torch.compile(module))
    assert schedule.verdict()["held"]
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)
