"""Sources by name; a user's own class is checked against its signature."""

import sys
import textwrap

import pytest

from frostline.data.build import SOURCES, build_source, source_class
from frostline.data.digits import Digits

OWN = """
import torch
from frostline.data.source import ArrayImages

class Squares:
    classes = ["small", "large"]

    def __init__(self, *, count: int, image_size: int = 8):
        self.count, self.image_size = count, image_size

    def dataset(self, split):
        images = torch.zeros(self.count, self.image_size, self.image_size, dtype=torch.uint8)
        return ArrayImages(images=images, labels=[index % 2 for index in range(self.count)])

class NoDataset:
    classes = ["a"]

class NoClasses:
    def dataset(self, split):
        return None

def function():
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_sources.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_sources", None)


def test_by_name():
    source = build_source({"name": "digits", "val_fraction": 0.1, "test_fraction": 0.2, "split_seed": 1})
    assert isinstance(source, Digits)


@pytest.mark.parametrize("name", SOURCES)
def test_every_name_is_a_class(name):
    assert isinstance(source_class({"name": name}), type)


def test_own_class(own):
    source = build_source({"_target_": "own_sources.Squares", "count": 3})
    assert source.classes == ["small", "large"]
    assert len(source.dataset("train")) == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "digit"}, "Unknown data source 'digit'. Did you mean `digits`"),
        ({}, "either name"),
        ({"name": "digits", "_target_": "x.Y"}, "either name"),
        ({"name": "digits", "val_fractoin": 0.1}, r"data\.val_fractoin: `Digits` .*Did you mean `val_fr"),
        ({"_target_": "own_sources.Squares"}, r"data\.count: missing; `Squares` requires it"),
        ({"_target_": "own_sources.Squares", "cuont": 3}, r"data\.cuont.*Did you mean `count`"),
        ({"_target_": "own_sources.Nothing"}, r"no class at `_target_: own_sources\.Nothing`"),
        ({"_target_": "no_such_module.Source"}, r"cannot import `no_such_module`.*No module named"),
        ({"_target_": "Source"}, "no class at `_target_: Source`"),
        ({"_target_": "own_sources.function"}, "is not a class"),
        ({"_target_": "own_sources.NoDataset"}, "it lacks a method `dataset"),
        ({"_target_": "own_sources.NoClasses"}, "it lacks `classes`"),
    ],
)
def test_user_mistakes(own, config, message):
    with pytest.raises(ValueError, match=message):
        build_source(config)


def test_a_class_that_is_no_source_is_refused_before_it_is_constructed(tmp_path):
    marker = tmp_path / "ran"
    with pytest.raises(ValueError, match="is no data source"):
        build_source({"_target_": "subprocess.Popen", "args": ["touch", str(marker)]})
    assert not marker.exists()
