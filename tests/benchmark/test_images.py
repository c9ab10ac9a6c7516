"""The benchmark's images: the same everywhere, balanced, JPEGs of photographs' size, and ones that can be learned."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts.benchmark.contest.images import CLASSES, QUALITY, SIDES, image, make_folder

from frostline.data.image_folder import ImageFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("contest") / "images", train_images=24, val_images=12)


def digests(folder: Path) -> dict[str, str]:
    paths = folder.rglob("*.jpg")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_smaller_folder_is_the_balanced_beginning_of_a_larger_one(folder, tmp_path):
    smaller = digests(make_folder(tmp_path / "images", train_images=12, val_images=10))
    larger = digests(folder)
    assert len(larger) == 24 + 12
    assert len(smaller) == 12 + 10
    assert smaller.items() <= larger.items()
    counts = [len(list((folder / "train" / f"class{label}").iterdir())) for label in range(CLASSES)]
    assert counts == [3, 3, 3, 3, 2, 2, 2, 2, 2, 2]


def test_no_image_is_in_both_splits(folder):
    found = digests(folder)
    assert len(set(found.values())) == len(found)


def test_they_are_jpegs_of_the_stated_quality_and_sides(folder):
    for path in folder.rglob("*.jpg"):
        with Image.open(path) as opened:
            assert opened.format == "JPEG"
            assert opened.mode == "RGB"
            assert all(SIDES[0] <= side <= SIDES[1] for side in opened.size)
            table = opened.quantization[0]
    # The first entry of the standard luminance table is 16, scaled by (200 - 2 quality) / 100.
    assert table[0] == round(16 * (200 - 2 * QUALITY) / 100)


def test_frostline_reads_the_folder(folder):
    source = ImageFolder(path=folder)
    assert list(source.classes) == [f"class{label}" for label in range(CLASSES)]
    assert [len(source.dataset(split)) for split in ("train", "val")] == [24, 12]
    assert source.dataset("test") is None


def test_the_classes_can_be_reported_apart_by_what_is_in_the_middle():
    """Nearest mean colour of the middle, from 3 images a class: chance would be 10 %."""

    def middle(split: str, index: int) -> np.ndarray:
        pixels = np.asarray(image(split, index).resize((64, 64)), dtype=np.float64)
        return pixels[24:40, 24:40].mean(axis=(0, 1))

    means = [np.mean([middle("train", label + 10 * k) for k in range(3)], axis=0) for label in range(CLASSES)]
    hits = [
        int(np.argmin([np.linalg.norm(middle("val", index) - mean) for mean in means])) == index % CLASSES
        for index in range(30)
    ]
    assert np.mean(hits) > 0.3


def test_a_complete_folder_is_taken_as_it_is_and_another_one_refused(folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")}
    make_folder(folder, train_images=24, val_images=12)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")} == before
    with pytest.raises(ValueError, match="holds something else"):
        make_folder(folder, train_images=25, val_images=12)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="remove it, or name another"):
        make_folder(tmp_path, train_images=1, val_images=1)
