"""A policy read against a network: what trains, what is held in eval mode, at which rates."""

import pytest
import torchvision
from freezing.tiny import TinyNet
from torch import nn

from frostline.freezing import FreezePolicy

NET = torchvision.models.resnet18(num_classes=10)
NORMS = {name for name, module in NET.named_modules() if isinstance(module, nn.BatchNorm2d)}


def phase(plain, net=NET, **settings):
    return FreezePolicy.from_dict(plain).resolve(net, **settings).phases[0]


@pytest.mark.parametrize(
    ("mode", "tensors", "norms_held"),
    [("frozen", 2, 20), ("drift", 2, 0), ("recalibrate", 2, 20), ("affine", 42, 20), ("train", 42, 0)],
)
def test_batch_norm_modes_of_the_frozen_region(mode, tensors, norms_held):
    head = phase({"train": ["head"], "batch_norm": mode})
    assert len(head.trainable) == tensors
    assert len(head.eval_modules & NORMS) == norms_held
    assert head.frozen_batch_norms == NORMS


def test_batch_norms_that_train_are_not_in_the_frozen_region():
    top = phase({"train": ["from:layer4"], "batch_norm": "affine"})
    assert all(not name.startswith("layer4") for name in top.frozen_batch_norms)
    assert len(top.frozen_batch_norms) == 15
    assert not any(name.startswith(("layer4", "fc", "avgpool")) for name in top.eval_modules)


def test_a_batch_norm_of_which_only_the_bias_trains_keeps_its_statistics():
    assert phase({"train": ["*.bias"]}).eval_modules >= NORMS


def test_dropout_follows_the_module_around_it():
    net = TinyNet()
    assert "dropout" not in phase({"train": ["head"]}, net).eval_modules
    vit = torchvision.models.vit_b_32(image_size=32)
    held = phase({"train": ["heads", "encoder.layers.encoder_layer_11"]}, vit).eval_modules
    assert "encoder.layers.encoder_layer_0.dropout" in held
    assert "encoder.layers.encoder_layer_11.dropout" not in held
    assert phase({"train": ["heads"], "dropout": "active"}, vit).eval_modules == frozenset()


def test_a_network_names_its_own_stages_and_dropout_follows_its_stage():
    net = TinyNet()
    net.stages = {"body": ("conv1", "bn1", "conv2", "bn2", "dropout"), "top": ("head",)}
    assert "dropout" in phase({"train": ["top"]}, net).eval_modules
    assert "dropout" not in phase({"train": ["body"]}, net).eval_modules


def test_a_new_head_trains_in_every_phase_and_that_is_reported():
    policy = FreezePolicy.from_dict(
        {"phases": [{"name": "a", "train": ["layer4"], "until": {"epochs": 1}}, {"name": "b", "train": ["all"]}]}
    )
    resolved = policy.resolve(NET, always_trainable=("fc.*",))
    assert {"fc.weight", "fc.bias"} <= resolved.phases[0].trainable
    assert resolved.phases[0].forced == {"fc.weight", "fc.bias"}
    assert resolved.phases[1].forced == frozenset()
    assert any("Phase `a` also trains `fc.bias`, `fc.weight`" in warning for warning in resolved.warnings)


def test_what_never_trains_is_reported():
    resolved = FreezePolicy.static("all", "!stem").resolve(NET)
    assert resolved.never_trained == ("conv1.weight", "bn1.weight", "bn1.bias")
    assert any("Never trained in any phase: `conv1.weight`" in warning for warning in resolved.warnings)


def test_a_phase_that_leaves_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match=r"Phase `static`: train: \[head, !head\] leaves nothing to train"):
        FreezePolicy.static("head", "!head").resolve(NET)


def test_learning_rate_factors():
    factors = phase({"train": ["all"], "lr_decay": 0.5, "lr": {"layer4": 3.0, "layer4.1": 0.1}}).lr
    assert factors["fc.weight"] == 1.0
    assert factors["layer4.0.conv1.weight"] == 1.5
    assert factors["layer4.1.conv1.weight"] == 0.1 * 0.5
    assert factors["conv1.weight"] == 0.5**5


def test_a_factor_for_what_is_frozen_is_refused():
    with pytest.raises(ValueError, match="gives `layer1` a learning-rate factor, but freezes it"):
        phase({"train": ["head"], "lr": {"layer1": 0.1}})
    with pytest.raises(ValueError, match="Phase `static`, `lr`: `layr1` matches no parameter"):
        phase({"train": ["head"], "lr": {"layr1": 0.1}})


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 3), nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight


def test_a_shared_tensor_trains_if_any_of_its_names_does_and_warns():
    with pytest.warns(UserWarning, match="`encoder.weight` and `decoder.weight` are one tensor"):
        resolved = FreezePolicy.static("decoder").resolve(Tied())
    assert resolved.phases[0].trainable == {"encoder.weight", "decoder.bias"}
    assert resolved.warnings[0] == "Shared tensors: `decoder.weight` = `encoder.weight`."


def test_frost_line():
    gradual = FreezePolicy.from_dict(
        {
            "phases": [
                {"name": "a", "train": ["head"], "until": {"epochs": 1}},
                {"name": "b", "train": ["layer2", "head"]},
            ]
        }
    ).resolve(NET)
    assert [gradual.frost_line(entry) for entry in gradual.phases] == [5, 2]
    static = FreezePolicy.static("head", batch_norm="affine").resolve(NET)
    assert static.frost_line(static.phases[0]) == 0
