"""What each word of a policy selects, counted by hand on a ResNet-18 (62 tensors)."""

import pytest
import torchvision
from torch import nn

from frostline.freezing.selectors import class_names, match, select, stages_of

NET = torchvision.models.resnet18(num_classes=10)
STAGES = stages_of(NET)


@pytest.mark.parametrize(
    ("selectors", "tensors"),
    [
        (["all"], 62),
        (["*"], 62),
        (["head"], 2),
        (["stem"], 3),
        (["layer1"], 12),
        (["layer4"], 15),
        (["from:layer4"], 17),
        (["from:stem"], 62),
        (["layer4.1"], 6),
        (["layer4.1.conv1"], 1),
        (["conv1.weight"], 1),
        (["layer3.*"], 15),
        (["layer3.*.bias"], 5),
        (["*.bias"], 21),
        (["@BatchNorm2d"], 40),
        (["@BatchNorm"], 40),
        (["@Linear", "@Conv2d"], 22),
        (["@BasicBlock"], 57),
        (["all", "!head"], 60),
        (["all", "!@BatchNorm2d"], 22),
        (["all", "!layer4", "layer4.1"], 53),
        (["layer4", "!layer4.1", "head"], 11),
    ],
    ids=str,
)
def test_selectors_select_exactly(selectors, tensors):
    assert len(select(NET, selectors, stages=STAGES)) == tensors


def test_the_later_word_wins():
    assert select(NET, ["head", "!head", "fc.bias"], stages=STAGES) == {"fc.bias"}
    assert select(NET, ["fc.bias", "!fc.bias", "head"], stages=STAGES) == {"fc.weight", "fc.bias"}


def test_layer1_is_not_layer10():
    net = nn.Module()
    for name in ("layer1", "layer10"):
        net.add_module(name, nn.Linear(2, 2))
    assert match(net, "layer1", stages=stages_of(net)) == {"layer1.weight", "layer1.bias"}


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        (["layer5"], "`layer5` matches no parameter.*stem, layer1, layer2, layer3, layer4, head.*Did you mean"),
        (["fc.wieght"], "Did you mean `fc.weight`"),
        (["haed"], "Did you mean `head`"),
        (["from:layr4"], "Did you mean `from:layer4`"),
        (["layer1*.weights"], "matches no parameter"),
        (["@BatchNorm3d"], "matches no module.*BatchNorm2d.*Did you mean `@BatchNorm2d`"),
        (["none"], "leave nothing to train"),
        (["!head"], "removes nothing.*write \\[all, '!head'\\]"),
        (["layer1", "!layer2"], "`!layer2` removes nothing"),
        (["all", "!nowhere"], "`nowhere` matches no parameter"),
    ],
    ids=str,
)
def test_what_selects_nothing_is_an_error_that_helps(selectors, message):
    with pytest.raises(ValueError, match=message):
        select(NET, selectors, stages=STAGES)


def test_a_synchronised_batch_norm_answers_to_its_old_name():
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(torchvision.models.resnet18(num_classes=10))
    assert len(match(converted, "@BatchNorm2d", stages=STAGES)) == 40
    assert "BatchNorm2d" in class_names(nn.SyncBatchNorm(2))


def test_a_class_answers_for_its_subclasses():
    convnext = torchvision.models.convnext_tiny()
    layer_norms = match(convnext, "@LayerNorm", stages=stages_of(convnext))
    assert layer_norms == match(convnext, "@LayerNorm2d", stages=stages_of(convnext)) | {
        name for name, _ in convnext.named_parameters() if ".block.2." in name
    }
