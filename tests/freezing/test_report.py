"""The table, with the numbers of a ResNet-18 with 10 classes."""

import torch
import torchvision

from frostline.freezing import FreezePolicy, as_text, freezing_table
from frostline.freezing.report import learning_rates_of, total

NET = torchvision.models.resnet18(num_classes=10)
PARAMETERS = {"stem": 9536, "layer1": 147968, "layer2": 525568, "layer3": 2099712, "layer4": 8393728, "head": 5130}


def table(*train, learning_rates=None, **region):
    resolved = FreezePolicy.static(*train, **region).resolve(NET)
    return freezing_table(NET, resolved, resolved.phases[0], learning_rates=learning_rates)


def test_head_only():
    rows = table("head")
    assert {row.stage: row.parameters for row in rows} == PARAMETERS
    assert {row.stage: row.trainable_parameters for row in rows} == dict.fromkeys(PARAMETERS, 0) | {"head": 5130}
    whole = total(rows)
    assert (whole.trainable_parameters, whole.parameters) == (5_130, 11_181_642)
    assert (whole.trainable_tensors, whole.tensors) == (2, 62)


def test_batch_norm_alone():
    whole = total(table("@BatchNorm2d"))
    assert (whole.trainable_parameters, whole.trainable_tensors) == (9_600, 40)


def test_batch_norm_modes():
    modes = [row.batch_norm for row in table("layer4.1", "head")]
    assert modes == ["eval", "eval", "eval", "eval", "mixed", ""]
    assert total(table("head", batch_norm="drift")).batch_norm == "train"


def test_learning_rates_of_an_optimizer():
    optimizer = torch.optim.SGD([{"params": [NET.fc.weight], "lr": 0.1}, {"params": [NET.fc.bias], "lr": 0.2}])
    rows = table("head", learning_rates=learning_rates_of(NET, optimizer))
    assert rows[-1].lr == (0.1, 0.2)
    assert rows[0].lr is None


def test_as_text():
    lines = as_text(table("head", learning_rates={"fc.weight": 0.01, "fc.bias": 0.01})).splitlines()
    assert lines[0].split("  ")[0] == "stage"
    assert lines[2] == "stem    frozen          9,536      0/3  eval                    -"
    assert lines[7] == "head     5,130          5,130      2/2  -                    0.01"
    assert lines[8] == "total    5,130     11,181,642     2/62  eval                 0.01"
