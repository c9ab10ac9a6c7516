"""Beyond ResNet: policies on a torchvision ConvNeXt and a ViT, by stage, pattern and class, in a fit."""

from typing import Any

import pytest
import torch
import torchvision
from freezing.tiny import TinyModule, images, trainer
from torch.utils.data import DataLoader

from frostline.freezing import FreezePolicy, FreezingSchedule, stages_of


def convnext() -> Any:
    blocks = [
        torchvision.models.convnext.CNBlockConfig(8, 16, 1),
        torchvision.models.convnext.CNBlockConfig(16, None, 2),
    ]
    net = torchvision.models.ConvNeXt(blocks, stochastic_depth_prob=0.3, num_classes=3)
    net.stages = {
        "stem": ("features.0",),
        "stage1": ("features.1", "features.2"),
        "stage2": ("features.3",),
        "head": ("avgpool", "classifier"),
    }
    return net


def vit() -> Any:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, dropout=0.1, num_classes=3
    )


POLICIES = {
    "convnext": (
        convnext,
        [
            {"name": "head", "train": ["head"], "until": {"steps": 2}},
            {"name": "top", "train": ["from:stage2", "!@LayerNorm"], "until": {"steps": 2}},
            {"name": "all", "train": ["all"], "lr_decay": 1.0},
        ],
    ),
    "vit": (
        vit,
        [
            {"name": "head", "train": ["heads"], "until": {"steps": 2}},
            {"name": "last", "train": ["encoder.layers.encoder_layer_2", "encoder.ln", "heads"], "until": {"steps": 2}},
            {"name": "biases", "train": ["*bias*", "class_token", "heads"]},
        ],
    ),
}


def adam(parameters: Any) -> torch.optim.Optimizer:
    # ConvNeXt scales its blocks by 1e-6 at first: in 2 steps of SGD some gradients are lost in rounding.
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.mark.parametrize("name", POLICIES)
def test_gradual_unfreezing_trains_each_phase_exactly(name):
    build, phases = POLICIES[name]
    torch.manual_seed(0)
    net = build()
    trained: dict[str, dict[str, torch.Tensor]] = {}

    class Module(TinyModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            trained.setdefault(
                schedule.phase.name, {key: value.clone() for key, value in self.net.state_dict().items()}
            )

    schedule = FreezingSchedule(policy=FreezePolicy.from_dict({"phases": phases}), attribute="net")
    trainer([schedule], max_epochs=2).fit(Module(net, adam), DataLoader(images(12, side=32), batch_size=4))
    assert schedule.verdict()["held"]
    states = [*trained.values(), net.state_dict()]
    for phase, before, after in zip(schedule.resolved.phases, states[:-1], states[1:], strict=True):
        assert {key for key in before if not torch.equal(before[key], after[key])} == set(phase.trainable), phase.name


def test_a_network_s_own_stages_make_stage_names():
    net = convnext()
    assert list(stages_of(net)) == ["stem", "stage1", "stage2", "head"]
    held = FreezePolicy.static("head").resolve(net).phases[0].eval_modules
    # Drop path of frozen blocks is off.
    assert {name for name, module in net.named_modules() if type(module).__name__ == "StochasticDepth"} <= held


def test_a_vit_without_stages_of_its_own_has_one_per_child():
    assert list(stages_of(vit())) == ["parameters", "conv_proj", "encoder", "heads"]


def test_attention_dropout_of_frozen_layers_is_off_and_of_training_layers_on():
    phase = FreezePolicy.static("encoder.layers.encoder_layer_2", "heads").resolve(vit()).phases[0]
    assert "encoder.layers.encoder_layer_0.self_attention" in phase.eval_modules
    assert "encoder.layers.encoder_layer_2.self_attention" not in phase.eval_modules
