"""A network in a phase: flags and modes, also after `train()`, in copies, and converted."""

import copy
import pickle

import pytest
import torch
import torchvision
from freezing.tiny import TinyNet, seeded_net
from torch import nn

from frostline.freezing import FreezePolicy, apply_phase
from frostline.freezing.apply import check_flags, frozen_tensors, hold_modes, release_modes


def resolved(*train, net, **region):
    return FreezePolicy.static(*train, **region).resolve(net).phases[0]


def in_training(net):
    return {name for name, module in net.named_modules() if module.training}


def test_flags_gradients_and_modes():
    net = seeded_net()
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    apply_phase(net, resolved("head", net=net))
    assert {name for name, entry in net.named_parameters() if entry.requires_grad} == {"head.weight", "head.bias"}
    assert {name for name, entry in net.named_parameters() if entry.grad is not None} == {"head.weight", "head.bias"}
    # Dropout stands right under the network, of which something trains.
    assert in_training(net) == {"", "dropout", "head"}


def test_a_phase_can_be_entered_from_anywhere():
    net = seeded_net()
    for selector in ("all", "head", "conv1", "all"):
        apply_phase(net, resolved(selector, net=net))
    assert all(entry.requires_grad for entry in net.parameters())
    assert in_training(net) == {name for name, _ in net.named_modules()}


def test_a_network_left_in_eval_mode_is_put_into_training_mode():
    net = seeded_net().eval()
    apply_phase(net, resolved("all", net=net))
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(
    "undo", [lambda net: net.train(), lambda net: net.eval().train(), lambda net: nn.Sequential(net).train()]
)
def test_a_call_of_train_leaves_frozen_modules_in_eval_mode(undo):
    net = seeded_net()
    apply_phase(net, resolved("head", net=net))
    undo(net)
    assert in_training(net) == {"", "dropout", "head"}


def test_a_submodule_in_training_mode_is_corrected_before_the_forward():
    net = seeded_net()
    apply_phase(net, resolved("head", net=net))
    before = net.bn1.running_mean.clone()
    net.bn1.train()
    net(torch.randn(4, 3, 8, 8))
    assert torch.equal(net.bn1.running_mean, before)
    assert not net.bn1.training


def test_eval_stays_eval():
    net = seeded_net()
    apply_phase(net, resolved("head", net=net))
    net.eval()
    net(torch.randn(4, 3, 8, 8))
    assert in_training(net) == set()


@pytest.mark.parametrize(
    "make_copy", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_copies_have_guards_of_their_own(make_copy):
    net = seeded_net()
    apply_phase(net, resolved("head", net=net))
    other = make_copy(net)
    other.eval()
    other.train()
    assert in_training(other) == {"", "dropout", "head"}
    release_modes(other)
    other.train()
    assert in_training(other) == {name for name, _ in net.named_modules()}
    net.train()
    assert in_training(net) == {"", "dropout", "head"}, "the copy's release must not reach the original"


def test_conversion_to_synchronised_batch_norm_changes_nothing():
    net = torchvision.models.resnet18(num_classes=10)
    phase = resolved("layer4", "head", net=net)
    apply_phase(net, phase)
    before = in_training(net)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert in_training(net) == before
    net.train()
    assert in_training(net) == before
    assert FreezePolicy.static("layer4", "head").resolve(net).phases[0] == phase


@pytest.mark.parametrize("mode", ["frozen", "drift", "recalibrate", "affine", "train"])
def test_state_dict_keys_and_parameter_count_are_the_same_for_every_policy(mode):
    plain = torchvision.models.resnet18(num_classes=10)
    net = torchvision.models.resnet18(num_classes=10)
    apply_phase(net, resolved("layer2", "head", net=net, batch_norm=mode))
    assert list(net.state_dict()) == list(plain.state_dict())
    assert sum(entry.numel() for entry in net.parameters()) == 11_181_642
    plain.load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("mode", "statistics_change", "affine_trains"),
    [
        ("frozen", False, False),
        ("drift", True, False),
        ("recalibrate", False, False),
        ("affine", False, True),
        ("train", True, True),
    ],
)
def test_what_each_batch_norm_mode_lets_change(mode, statistics_change, affine_trains):
    net = seeded_net()
    apply_phase(net, resolved("head", net=net, batch_norm=mode))
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net.train()(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    expected = {"head.weight", "head.bias"}
    for norm in ("bn1", "bn2"):
        expected |= {
            f"{norm}.{key}" for key in ("running_mean", "running_var", "num_batches_tracked") if statistics_change
        }
        expected |= {f"{norm}.{key}" for key in ("weight", "bias") if affine_trains}
    assert changed == expected
    assert not changed & set(frozen_tensors(net, resolved("head", net=net, batch_norm=mode)))
    assert changed | set(frozen_tensors(net, resolved("head", net=net, batch_norm=mode))) == set(before)


def test_a_frozen_part_behind_a_trainable_one_lets_gradients_through():
    net = seeded_net()
    apply_phase(net, resolved("conv1", net=net))
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    assert net.conv1.weight.grad.abs().sum() > 0
    assert net.head.weight.grad is None
    assert net.bn2.training is False


def test_a_flag_that_was_set_elsewhere_is_found():
    net = TinyNet()
    phase = resolved("head", net=net)
    apply_phase(net, phase)
    check_flags(net, phase)
    net.conv1.bias.requires_grad_(True)
    net.head.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"requires_grad of conv1\.bias, head\.bias was changed outside"):
        check_flags(net, phase)


def test_a_compiled_network_is_unwrapped():
    net = seeded_net()
    compiled = torch.compile(net, backend="eager")
    phase = FreezePolicy.static("head").resolve(compiled).phases[0]
    assert phase.trainable == {"head.weight", "head.bias"}
    apply_phase(compiled, phase)
    compiled.train()
    assert in_training(net) == {"", "dropout", "head"}


def test_holding_again_replaces_the_guards():
    net = seeded_net()
    for selector in ("head", "conv1"):
        hold_modes(net, resolved(selector, net=net))
    assert len(net._forward_pre_hooks) == 1
    release_modes(net)
    assert len(net._forward_pre_hooks) == 0
    assert "train" not in vars(net)
