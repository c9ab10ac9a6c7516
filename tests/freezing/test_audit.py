"""Fingerprints: equal for equal bytes, different for any other."""

import pytest
import torch
from freezing.tiny import seeded_net

from frostline.freezing.audit import Audit, fingerprint, fingerprints, moved

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (4, 3, 3, 3)], ids=str)
def test_a_change_of_any_one_element_shows(dtype, shape):
    tensor = torch.zeros(shape).to(dtype)
    before = fingerprint(tensor)
    assert torch.equal(fingerprint(tensor.clone()), before)
    for index in range(tensor.numel()):
        changed = tensor.clone()
        changed.view(-1)[index] = 1
        assert not torch.equal(fingerprint(changed), before)


def test_the_last_bit_and_the_sign_of_zero_show():
    tensor = torch.randn(1000)
    nudged = tensor.clone()
    nudged[500] = torch.nextafter(nudged[500], torch.tensor(10.0))
    assert not torch.equal(fingerprint(tensor), fingerprint(nudged))
    assert not torch.equal(fingerprint(torch.tensor([0.0])), fingerprint(torch.tensor([-0.0])))


def test_an_exchange_of_two_elements_shows():
    assert not torch.equal(fingerprint(torch.arange(8.0)), fingerprint(torch.arange(8.0).flip(0)))


def test_views_and_memory_formats():
    whole = torch.randn(3, 4, 5, 6)
    assert torch.equal(fingerprint(whole.to(memory_format=torch.channels_last)), fingerprint(whole))
    odd = torch.randn(9)[1:]
    assert torch.equal(fingerprint(odd), fingerprint(odd.clone()))


def test_the_minutes():
    net, audit = seeded_net(), Audit()
    names = [name for name in net.state_dict() if name.startswith(("conv1", "bn1"))]
    audit.begin(net, names)
    assert audit.verdict()["held"] is False, "nothing was compared yet"
    assert audit.compare(net, phase="a", reason="phase change", step=3) == []
    assert audit.verdict()["held"] is True
    with torch.no_grad():
        net.bn1.running_var[2] += 1e-6
    assert audit.compare(net, phase="a", reason="end of fit", step=5, except_for=["conv1.bias"]) == ["bn1.running_var"]
    assert audit.verdict() == {
        "held": False,
        "tensors_compared": 14,
        "audits": [
            {"phase": "a", "reason": "phase change", "step": 3, "tensors": 7, "moved": []},
            {"phase": "a", "reason": "end of fit", "step": 5, "tensors": 7, "moved": ["bn1.running_var"]},
        ],
    }
    audit.put_buffers_back(net)
    assert moved(audit.state_dict()["marks"], fingerprints(net, names)) == []
