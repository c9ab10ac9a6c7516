"""Parameter groups: an exact partition of what ever trains, fixed and named from the first step."""

import pytest
import torch
import torchvision

from frostline.freezing import FreezePolicy
from frostline.optim import parameter_groups

NET = torchvision.models.resnet18(num_classes=10)
GRADUAL = FreezePolicy.from_dict(
    {"phases": [{"name": "a", "train": ["head"], "until": {"epochs": 1}}, {"name": "b", "train": ["from:layer4"]}]}
)


def groups_of(policy, **settings):
    return parameter_groups(NET, resolved=policy.resolve(NET), lr=0.1, **settings)


def sizes(groups):
    return {group["name"]: len(group["params"]) for group in groups}


def test_one_group_per_stage_in_order():
    groups = groups_of(FreezePolicy.static("all"))
    assert sizes(groups) == {"stem": 3, "layer1": 12, "layer2": 15, "layer3": 15, "layer4": 15, "head": 2}


@pytest.mark.parametrize(
    ("excluded", "undecayed"), [((), 0), (("bias",), 21), (("norm",), 40), (("bias", "norm"), 41)], ids=str
)
def test_biases_and_norms_are_left_out_of_weight_decay_on_request(excluded, undecayed):
    groups = groups_of(FreezePolicy.static("all"), weight_decay=0.01, exclude_from_decay=excluded)
    assert sum(len(group["params"]) for group in groups if group["weight_decay"] == 0.0) == undecayed
    assert all(group["name"].endswith("/no_decay") == (group["weight_decay"] == 0.0) for group in groups)


def test_names_of_a_split_stage():
    groups = groups_of(FreezePolicy.static("head"), weight_decay=0.01, exclude_from_decay=["bias"])
    assert sizes(groups) == {"head": 1, "head/no_decay": 1}


@pytest.mark.parametrize(
    "policy",
    [
        FreezePolicy.static("all"),
        FreezePolicy.static("head"),
        GRADUAL,
        FreezePolicy.static("head", batch_norm="affine"),
        FreezePolicy.from_dict({"train": ["all"], "lr": {"*.bias": 0.5, "layer3.0": 2.0}, "lr_decay": 0.9}),
    ],
    ids=["all", "head", "gradual", "affine", "factors"],
)
@pytest.mark.parametrize("excluded", [(), ("bias", "norm")], ids=["", "excluded"])
def test_groups_are_an_exact_partition_of_what_ever_trains(policy, excluded):
    resolved = policy.resolve(NET)
    groups = groups_of(policy, exclude_from_decay=excluded)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    trains = {id(parameter) for name, parameter in NET.named_parameters() if name in resolved.trainable}
    assert len(held) == len(set(held))
    assert set(held) == trains
    assert len({group["name"] for group in groups}) == len(groups)
    torch.optim.AdamW(groups)


def test_a_stage_that_is_unfrozen_in_parts_has_a_group_for_each_part():
    policy = FreezePolicy.from_dict(
        {
            "phases": [
                {"name": "a", "train": ["layer4.1", "head"], "until": {"epochs": 1}},
                {"name": "b", "train": ["layer4", "head"]},
            ]
        }
    )
    assert sizes(groups_of(policy)) == {"layer4": 9, "layer4/2": 6, "head": 2}


def test_groups_hold_the_plain_learning_rate():
    policy = FreezePolicy.from_dict({"train": ["all"], "lr_decay": 0.5})
    assert {group["lr"] for group in groups_of(policy)} == {0.1}


def test_another_networks_policy_is_refused():
    other = FreezePolicy.static("all").resolve(torchvision.models.resnet50())
    with pytest.raises(ValueError, match=r"resolved for another network.*layer1\.0\.bn3\.bias"):
        parameter_groups(NET, resolved=other, lr=0.1)


def test_an_unknown_exclusion_is_refused():
    with pytest.raises(ValueError, match="knows bias, norm; got \\['norms'\\]"):
        groups_of(GRADUAL, exclude_from_decay=["norms"])


def test_attention_biases_and_layer_norms_count():
    vit = torchvision.models.vit_b_32(image_size=32)
    resolved = FreezePolicy.static("all").resolve(vit)
    groups = parameter_groups(vit, resolved=resolved, lr=0.1, weight_decay=0.1, exclude_from_decay=["bias", "norm"])
    excluded = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    assert excluded == {id(parameter) for parameter in vit.parameters() if parameter.ndim == 1}


def test_groups_leave_what_is_not_given_to_the_optimizer():
    resolved = FreezePolicy.static("head").resolve(NET)
    [weight, bias] = parameter_groups(NET, resolved=resolved, exclude_from_decay=["bias"])
    assert (weight.keys(), bias.keys()) == ({"params", "name"}, {"params", "name", "weight_decay"})
    assert bias["weight_decay"] == 0.0
