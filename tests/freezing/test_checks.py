"""Checks of a fit: fingerprints and their comparison, gradients."""

import pytest
import torch
from freezing.tiny import seeded_net

from frostline.freezing import FreezePolicy, apply_phase
from frostline.freezing.checks import Audit, GradientCheckFailed, check_gradients, fingerprint, fingerprints

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (4, 3, 3, 3)], ids=str)
def test_a_change_of_any_one_element_shows(dtype, shape):
    tensor = torch.zeros(shape).to(dtype)
    before = fingerprint(tensor)
    assert fingerprint(tensor.clone()) == before
    for index in range(tensor.numel()):
        changed = tensor.clone()
        changed.view(-1)[index] = 1
        assert fingerprint(changed) != before


# Of these most cancel in a sum or a product of the words.
EDITS = {
    "swap": lambda words: words[[1, 0, *range(2, len(words))]],
    "rotate": lambda words: words.roll(1),
    "reverse": lambda words: words.flip(0),
    "duplicate": lambda words: torch.cat([words[1:2], words[1:]]),
    "move": lambda words: torch.cat([words[:1] + 3, words[1:2] - 3, words[2:]]),
    "zero": lambda words: torch.cat([words[:1] * 0, words[1:]]),
    "negate two": lambda words: torch.cat([words[:2] ^ torch.iinfo(words.dtype).min, words[2:]]),
    "negate half": lambda words: torch.cat([words[::2] ^ torch.iinfo(words.dtype).min, words[1::2]]),
}
WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_edits_of_several_elements_show(edit, dtype):
    for values in (torch.randn(700) * 50, torch.cat([torch.tensor([2.0, -3.0]), torch.ones(40)])):
        words = values.to(dtype).view(WORDS[dtype.itemsize])
        changed = EDITS[edit](words)
        assert not torch.equal(changed, words)
        assert fingerprint(changed.view(dtype)) != fingerprint(words.view(dtype))


def test_the_same_bytes_of_another_type_or_shape_show():
    tensor = torch.arange(12, dtype=torch.float32)
    forms = [tensor, tensor.view(torch.int32), tensor.view(torch.float64), tensor.view(3, 4), tensor.view(4, 3)]
    forms += [tensor.view(3, 4).T, tensor.view(1, 12), torch.zeros(12, dtype=torch.bool), torch.zeros(12).byte()]
    assert len({fingerprint(form) for form in forms}) == len(forms)


def test_the_last_bit_the_sign_of_zero_and_kinds_of_nan_show():
    tensor = torch.randn(1000)
    nudged = tensor.clone()
    nudged[500] = torch.nextafter(nudged[500], torch.tensor(10.0))
    assert fingerprint(tensor) != fingerprint(nudged)
    assert fingerprint(torch.tensor([0.0])) != fingerprint(torch.tensor([-0.0]))
    nan = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert fingerprint(nan[:1]) != fingerprint(nan[1:])


def test_views_and_memory_formats():
    whole = torch.randn(3, 4, 5, 6)
    assert fingerprint(whole.to(memory_format=torch.channels_last)) == fingerprint(whole)
    odd = torch.randn(9)[1:]
    assert fingerprint(odd) == fingerprint(odd.clone())
    assert fingerprint(torch.randn(0, 3)) != fingerprint(torch.randn(3, 0))


@pytest.fixture
def audited():
    """A network, its policy (conv1 and bn1 are frozen: 7 tensors) and the audit of its phase."""
    net, audit = seeded_net(), Audit()
    resolved = FreezePolicy.static("conv2", "bn2", "head").resolve(net)
    apply_phase(net, resolved.phases[0])
    audit.begin(net, resolved.phases[0])
    return net, resolved, audit


def test_fingerprints_of_another_kind_are_not_compared(audited):
    _, _, audit = audited
    state = audit.state_dict()
    del state["kind"]
    audit.load_state_dict(state)
    assert not audit.has_begun


def test_a_missing_tensor_has_changed(audited):
    net, resolved, audit = audited
    del net.bn1.running_var
    assert audit.compare(net, resolved, resolved.phases[0], reason="end of fit", step=1) == ["bn1.running_var"]


def test_audit_records_each_comparison(audited):
    net, resolved, audit = audited
    [phase] = resolved.phases
    before = fingerprints(net, ["bn1.running_var"])
    assert audit.verdict()["held"] is False, "nothing was compared yet"
    assert audit.compare(net, resolved, phase, reason="phase change", step=3) == []
    assert audit.verdict()["held"] is True
    with torch.no_grad():
        net.bn1.running_var[2] += 1e-6
    assert audit.compare(net, resolved, phase, reason="end of fit", step=5) == ["bn1.running_var"]
    assert audit.verdict() == {
        "held": False,
        "tensors_compared": 14,
        "audits": [
            {"phase": "static", "reason": "phase change", "step": 3, "tensors": 7, "moved": []},
            {"phase": "static", "reason": "end of fit", "step": 5, "tensors": 7, "moved": ["bn1.running_var"]},
        ],
    }
    audit.restore_buffers(net)
    assert fingerprints(net, ["bn1.running_var"]) == before


def test_averages_of_tensors_that_an_earlier_phase_trained_are_no_change():
    net, audit = seeded_net(), Audit()
    phases = [{"name": "a", "train": ["conv2"], "until": {"steps": 1}}, {"name": "b", "train": ["head"]}]
    resolved = FreezePolicy.from_dict({"phases": phases}).resolve(net)
    audit.begin(net, resolved.phases[1])
    with torch.no_grad():
        net.conv1.bias += 1
        net.conv2.bias += 1
    for averaged, changed in ((False, ["conv1.bias", "conv2.bias"]), (True, ["conv1.bias"])):
        found = audit.compare(net, resolved, resolved.phases[1], reason="end of fit", step=1, averaged=averaged)
        assert found == changed


def test_gradients_are_checked_by_name(audited):
    net, resolved, _ = audited
    [phase] = resolved.phases
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    check_gradients(net, phase)
    net.conv2.bias.grad = None
    with pytest.raises(GradientCheckFailed, match=r"Phase `static`: conv2.bias: in training, but without"):
        check_gradients(net, phase)
    check_gradients(net, phase, allow_unused=["conv2.bias"])
    net.bn1.weight.grad = torch.zeros(4)
    with pytest.raises(GradientCheckFailed, match=r"bn1.weight: frozen, but with a gradient"):
        check_gradients(net, phase, allow_unused=["conv2.bias"])
