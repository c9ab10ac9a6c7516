"""The table, with the numbers of a ResNet-18 with 10 classes."""

import torchvision

from frostline.freezing import FreezePolicy, as_text, freezing_table
from frostline.freezing.report import total, unfrozen_text

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


def test_learning_rates():
    rows = table("head", learning_rates={"fc.weight": 0.1, "fc.bias": 0.2})
    assert rows[-1].lr == (0.1, 0.2)
    assert rows[0].lr is None
    assert as_text(rows).splitlines()[-1].endswith("0.1 to 0.2")


def test_what_a_phase_trains_in_a_few_words():
    def words(*train):
        resolved = FreezePolicy.static(*train).resolve(NET)
        return unfrozen_text(NET, resolved, resolved.phases[0])

    assert words("head") == "head unfrozen"
    assert words("layer4", "head") == "layer4 unfrozen"
    assert words("layer3", "layer4", "head") == "layer3 to layer4 unfrozen"
    assert words("stem", "layer4", "head") == "2 stages unfrozen"
    assert words("layer4.1", "head") == "layer4 partly unfrozen"
    assert words("@BatchNorm2d", "head") == "stem to layer4 partly unfrozen"
    assert words("all") == "all unfrozen"
    assert words("layer2") == "layer2 unfrozen"


def test_as_text():
    lines = as_text(table("head", learning_rates={"fc.weight": 0.01, "fc.bias": 0.01})).splitlines()
    assert lines[0] == "stage   trains  of parameters  tensors  batch norm  learning rate"
    assert lines[1] == "stem    frozen          9,536      0/3  eval                    -"
    assert lines[6] == "head     5,130          5,130      2/2  -                    0.01"
    assert lines[7] == "total    5,130     11,181,642     2/62  eval                 0.01"
