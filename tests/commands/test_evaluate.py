"""Which images an evaluation takes of data that is not the checkpoint's own."""

import pytest

from frostline.commands.evaluate import _as_a_whole
from frostline.config.data import ImageFolder, Synthetic


def data(path, **changes):
    path.mkdir(exist_ok=True)
    return ImageFolder(name="image_folder", path=str(path), **changes)


def stored(path):
    return data(path).model_dump()


def test_other_images_are_taken_as_a_whole(tmp_path):
    assert _as_a_whole(data(tmp_path / "b"), stored(tmp_path / "a"), "test") == {"whole_as": "test"}
    assert _as_a_whole(data(tmp_path / "b", on_bad_image="skip"), {}, "val") == {"whole_as": "val"}


def test_fractions_that_were_typed_count(tmp_path):
    assert _as_a_whole(data(tmp_path / "b", test_fraction=0.5), stored(tmp_path / "a"), "test") == {}


def test_a_source_that_is_never_divided():
    assert _as_a_whole(Synthetic(name="synthetic"), {}, "test") == {}


def test_the_images_of_the_training_are_divided_as_there(tmp_path):
    assert _as_a_whole(data(tmp_path), {"path": f"{tmp_path}/../{tmp_path.name}"}, "test") == {}


@pytest.mark.parametrize("change", [{"test_fraction": 0.3}, {"split_seed": 1}, {"on_bad_image": "skip"}])
def test_another_division_of_these_is_refused(tmp_path, change):
    [(key, value)] = change.items()
    with pytest.raises(
        ValueError, match=rf"divided otherwise \({key}\)\. Leave data out .*, or type data\.{key}={value}$"
    ):
        _as_a_whole(data(tmp_path), data(tmp_path, **change).model_dump(), "test")
