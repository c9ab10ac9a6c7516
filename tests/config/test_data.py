"""The schema, the shipped YAML and the constructors say the same."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError
from tests.configs import settings

from frostline.config.augment import NamedAugment, OwnAugment
from frostline.config.data import PILLOWS_LIMIT, Data, OwnSource, TorchvisionName
from frostline.config.groups import RUN_GROUPS
from frostline.data import decoding
from frostline.data.build import SOURCES, source_class
from frostline.data.torchvision_source import DATASETS
from frostline.data.transforms import AUGMENTATIONS

DATA = RUN_GROUPS["data"].by_name


def shipped(name, group="data"):
    return settings(f"{group}={name}")[group]


def valid(name, tmp_path):
    section = shipped(name)
    if name == "csv":
        section["path"] = str(tmp_path / "list.csv")
        (tmp_path / "list.csv").touch()
    elif name == "image_folder":
        section["path"] = str(tmp_path)
    elif name == "streaming":
        section["path"] = str(tmp_path)
        (tmp_path / "frostline.json").touch()
    elif name == "torchvision":
        section["root"] = str(tmp_path)
    return section


def problem(name, tmp_path, **changes):
    with pytest.raises(ValidationError) as caught:
        DATA[name].model_validate(valid(name, tmp_path) | changes)
    errors = caught.value.errors()
    if len(errors) > 1:  # one for each type that a key may have
        (place,) = {error["loc"][0] for error in errors}
        return place, errors[0]["msg"]
    return ".".join(map(str, errors[0]["loc"])), errors[0]["msg"]


def test_every_source_has_a_section_and_a_yaml_file():
    assert set(DATA) == set(SOURCES) == {path.stem for path in Path("conf/data").glob("*.yaml")}
    assert set(AUGMENTATIONS) == {path.stem for path in Path("conf/augment").glob("*.yaml")}


@pytest.mark.parametrize("name", DATA)
def test_yaml_schema_and_constructor_have_the_same_keys(name, tmp_path):
    section = valid(name, tmp_path)
    assert DATA[name].model_validate(section).model_dump() == section
    assert next(iter(section)) == "name"
    assert set(section) == set(DATA[name].model_fields)
    assert set(Data.model_fields) <= set(section)
    parameters = set(inspect.signature(source_class({"name": name})).parameters)
    assert parameters - {"image_size", "whole_as"} == set(section) - set(Data.model_fields) - {"name"}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_augmentations_are_valid(name):
    assert NamedAugment.model_validate(shipped(name, "augment")).name == name


@pytest.mark.parametrize("section", [*DATA.values(), NamedAugment, OwnAugment, OwnSource])
def test_every_key_is_described(section):
    assert section.__doc__
    for key, field in section.model_fields.items():
        assert field.description, key


def test_the_schema_knows_what_the_code_supports():
    assert set(get_args(TorchvisionName)) == set(DATASETS)
    assert PILLOWS_LIMIT == decoding.PILLOWS_LIMIT


def test_validation_needs_no_torch():
    code = (
        "import sys, frostline.config.data, frostline.config.augment; "
        "print([name for name in ('torch', 'lightning', 'torchvision', 'sklearn') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["image_folder", "csv", "streaming"])
def test_a_missing_path(name, tmp_path):
    where, message = problem(name, tmp_path, path=None)
    assert where == "path"
    assert "is required: type data.path=" in message


def test_shards_in_a_store_are_named_by_their_address(tmp_path):
    store = {"path": "s3://bucket/sets", "endpoint_url": "https://here.example:9000", "cache_dir": str(tmp_path)}
    assert DATA["streaming"].model_validate(valid("streaming", tmp_path) | store).path == "s3://bucket/sets"
    for changes, expected in (
        ({"path": "gs://bucket/sets"}, "must be a folder or s3://BUCKET/FOLDER, not gs://bucket/sets"),
        ({"path": "s3:///sets"}, "must be a folder or s3://BUCKET/FOLDER"),
        (store | {"endpoint_url": "here:9000"}, "must be http://HOST or https://HOST, not here:9000"),
        ({"endpoint_url": "http://here"}, "endpoint_url is for data.path=s3://BUCKET/FOLDER"),
        ({"cache_dir": "somewhere"}, "cache_dir is for data.path=s3://BUCKET/FOLDER"),
    ):
        assert expected in problem("streaming", tmp_path, **changes)[1]


def test_a_folder_without_shards_is_reported_with_the_command_that_writes_them(tmp_path):
    where, message = problem("streaming", tmp_path, path=str(tmp_path.parent))
    assert where == "path"
    assert f"data.path={tmp_path.parent} output=SHARDS" in message


@pytest.mark.parametrize("name", ["digits", "torchvision"])
def test_fractions_that_leave_nothing_to_train_on(name, tmp_path):
    assert "leave nothing to train on" in problem(name, tmp_path, val_fraction=0.5, test_fraction=0.5)[1]


def test_more_images_than_fashion_mnist_has(tmp_path):
    assert "60,000" in problem("fashion_mnist", tmp_path, train_length=60_000, val_length=5000)[1]


@pytest.mark.parametrize(
    ("name", "changes", "where"),
    [
        ("digits", {"image_size": 0}, "image_size"),
        ("digits", {"batch_size": 1.5}, "batch_size"),
        ("digits", {"resize": 0.5}, "resize"),
        ("digits", {"mean": [0.1]}, "mean"),
        ("digits", {"std": [1.0, 0.0, 1.0]}, "std"),
        ("digits", {"loader_timeout": -1.0}, "loader_timeout"),
        ("digits", {"wrokers": 2}, "wrokers"),
        ("random", {"sampling": "balanced"}, "sampling"),
        ("streaming", {"sampling": "balanced"}, "sampling"),
        ("streaming", {"window": 7}, "window"),
        ("streaming", {"cache_limit": 0.0}, "cache_limit"),
        ("streaming", {"timeout": 0.0}, "timeout"),
        ("synthetic", {"difficulty": 1.1}, "difficulty"),
        ("torchvision", {"dataset": "CIFAR11"}, "dataset"),
        ("image_folder", {"max_pixels": 10**9}, "max_pixels"),
    ],
)
def test_out_of_range(name, changes, where, tmp_path):
    assert problem(name, tmp_path, **changes)[0] == where


def test_workers_are_a_number_or_auto(tmp_path):
    for workers in (0, 4, "auto"):
        assert DATA["digits"].model_validate(valid("digits", tmp_path) | {"workers": workers}).workers == workers
    with pytest.raises(ValidationError):
        DATA["digits"].model_validate(valid("digits", tmp_path) | {"workers": "many"})


def test_an_own_source_keeps_its_own_keys():
    section = OwnSource.model_validate({"_target_": "my.Source", "count": 3, "image_size": 32})
    dumped = section.model_dump(by_alias=True)
    assert dumped["count"] == 3
    assert dumped["_target_"] == "my.Source"
    assert set(Data.model_fields) <= set(dumped)
