"""Heads: sized from the features and the classes, and nothing that they do not take."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from frostline.models.heads import build_head


def test_linear_is_one_layer_with_fc_keys_of_torchvision() -> None:
    head = build_head({"name": "linear"}, features=512, classes=10)
    assert {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()} == {
        "weight": (10, 512),
        "bias": (10,),
    }


def test_dropout_stands_before_the_linear_layer() -> None:
    head = build_head({"name": "linear", "dropout": 0.25}, features=8, classes=3)
    assert [type(module) for module in head] == [nn.Dropout, nn.Linear]
    assert head[0].p == 0.25
    assert (head[1].in_features, head[1].out_features) == (8, 3)


def test_mlp_has_the_hidden_sizes_with_relu_and_dropout_after_each() -> None:
    head = build_head({"name": "mlp", "hidden": [6, 4], "dropout": 0.5}, features=8, classes=3)
    assert [type(module) for module in head] == [
        nn.Linear,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
    ]
    sizes = [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)]
    assert sizes == [(8, 6), (6, 4), (4, 3)]
    assert head(torch.zeros(2, 8)).shape == (2, 3)


def test_mlp_without_dropout_has_none() -> None:
    head = build_head({"name": "mlp", "hidden": [6]}, features=8, classes=3)
    assert [type(module) for module in head] == [nn.Linear, nn.ReLU, nn.Linear]


def test_an_unknown_head_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown head `conv`\. The choices are: linear, mlp, pretrained"):
        build_head({"name": "conv"}, features=8, classes=3)


def test_a_key_that_the_head_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head\.hidden: `linear_head` takes no such argument"):
        build_head({"name": "linear", "hidden": [3]}, features=8, classes=3)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"head\.hidden: missing; `mlp_head` requires it"):
        build_head({"name": "mlp"}, features=8, classes=3)


def test_an_own_head_gets_features_classes_and_its_own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_heads.py").write_text(
        "from torch import nn\n\n\n"
        "class Scaled(nn.Linear):\n"
        "    def __init__(self, *, features, classes, factor):\n"
        "        super().__init__(features, classes)\n"
        "        self.factor = factor\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_heads", raising=False)
    head = build_head({"_target_": "my_heads.Scaled", "factor": 2.5}, features=8, classes=3)
    assert (head.in_features, head.out_features, head.factor) == (8, 3, 2.5)
    with pytest.raises(ValueError, match=r"head\.factro: `Scaled` takes no such argument\. Did you mean `factor`\?"):
        build_head({"_target_": "my_heads.Scaled", "factro": 2.5}, features=8, classes=3)


def test_an_own_head_must_be_a_module() -> None:
    with pytest.raises(ValueError, match=r"head: `os\.system` is not a subclass of torch\.nn\.modules\.module\.Module"):
        build_head({"_target_": "os.system"}, features=8, classes=3)
