"""Sources and datamodules from config sections; a user's own class is checked against its signature."""

import sys
import textwrap

import pytest
import torch
import yaml

from frostline.data.build import SHARED_KEYS, SOURCES, build_datamodule, build_source, source_class
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


def conf(group, option):
    with open(f"conf/{group}/{option}.yaml") as stream:
        return yaml.safe_load(stream)


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


@pytest.mark.parametrize("name", ["digits", "random", "synthetic"])
@pytest.mark.parametrize("augment", ["none", "light", "crop", "standard", "trivial"])
def test_the_shipped_configs_make_batches(name, augment):
    data = build_datamodule(data=conf("data", name), augment=conf("augment", augment), seed=0)
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape[1:] == (3, 64, 64)
    assert len(images) == len(targets) == min(32, len(data.images("train")))


def test_the_shared_keys_arrive():
    section = conf("data", "digits") | {
        "image_size": 24,
        "batch_size": 6,
        "resize": 1.5,
        "sampling": "balanced",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "workers": 3,
        "loader_timeout": 9.0,
    }
    data = build_datamodule(data=section, augment={"name": "trivial", "mixup": 0.1, "cutmix": 0.2}, seed=5)
    assert (data.image_size, data.batch_size, data.resize, data.sampling, data.seed) == (24, 6, 1.5, "balanced", 5)
    assert (data.mean, data.std) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert (data.loading.workers, data.loading.timeout) == (3, 9.0)
    assert (data.augment.name, data.augment.mixup, data.augment.cutmix) == ("trivial", 0.1, 0.2)
    assert data.augment.horizontal_flip is False


def test_a_generated_source_is_told_the_image_size(own):
    shared = {key: value for key, value in conf("data", "digits").items() if key in SHARED_KEYS}
    section = {"_target_": "own_sources.Squares", "count": 4} | shared | {"image_size": 12}
    data = build_datamodule(data=section, augment=conf("augment", "none"), seed=0)
    assert data.source.image_size == 12
    noise = build_datamodule(data=conf("data", "random") | {"image_size": 20}, augment=conf("augment", "none"), seed=0)
    assert next(iter(noise.train_dataloader()))[0].shape == (1, 3, 20, 20)
    assert torch.is_floating_point(next(iter(noise.train_dataloader()))[0])


def test_a_missing_shared_key():
    with pytest.raises(ValueError, match=r"lacks data\.image_size, data\.batch_size"):
        build_datamodule(data={"name": "digits"}, augment={}, seed=0)
