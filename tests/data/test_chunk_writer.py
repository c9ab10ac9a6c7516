"""Packing writes a whole folder or none."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.preloaded import Started

from frostline.config import data as schema
from frostline.data.chunk_folder import MANIFEST
from frostline.data.chunk_writer import ChunkWriter, png
from frostline.data.decoding import decode_image
from frostline.data.image_file import ImageBytes
from frostline.data.image_folder import ImageFolder
from frostline.data.source import SPLITS, ArrayImages
from frostline.data.streaming import Streaming

from .conftest import pack


def splits(source):
    return {split: source.dataset(split) for split in SPLITS}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_chunks_have_the_size_that_was_asked_for_and_larger_images_one_each(photos, tmp_path):
    pack(photos, tmp_path / "small", chunk_size=0.008)
    chunks = Streaming(path=str(tmp_path / "small")).dataset("train").entry.chunks
    assert max(chunk.bytes for chunk in chunks) < 1.1 * 0.008 * 2**20
    assert sum(chunk.images for chunk in chunks) == 127
    assert len(chunks) > 10
    pack(photos, tmp_path / "tiny", chunk_size=1e-6)
    assert {chunk.images for chunk in Streaming(path=str(tmp_path / "tiny")).dataset("train").entry.chunks} == {1}


def test_training_images_are_written_in_an_order_of_their_seed_so_that_a_chunk_mixes_classes(photos, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        pack(photos, tmp_path / name, seed=seed)
    one, same, other = (contents(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert one["train/chunk-0-0.bin"] != other["train/chunk-0-0.bin"]
    assert one["val/chunk-0-0.bin"] == other["val/chunk-0-0.bin"]
    labels = list(Streaming(path=str(tmp_path / "one")).dataset("train").labels)
    assert labels != sorted(labels)
    assert len(set(labels[:12])) == 3


def test_workers_write_the_same(photos, shards, tmp_path):
    pack(photos, tmp_path / "by_two", workers=2)
    assert contents(tmp_path / "by_two") == contents(shards)


def test_shards_can_be_written_again_with_other_chunks(shards, tmp_path):
    source = Streaming(path=str(shards))
    ChunkWriter(chunk_size=0.02).write(splits(source), classes=source.classes, output=tmp_path / "again")
    again = Streaming(path=str(tmp_path / "again"))
    ours, theirs = again.dataset("val"), source.dataset("val")
    assert len(ours.entry.chunks) < len(theirs.entry.chunks)
    assert [ours.stored(i) for i in range(len(ours))] == [theirs.stored(i) for i in range(len(theirs))]


def test_images_that_are_no_files_become_png_with_the_same_pixels(tmp_path):
    pixels = torch.randint(0, 256, (12, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ArrayImages(images=pixels, labels=[0, 1] * 6)
    ChunkWriter().write({"train": images, "val": images}, classes=["a", "b"], output=tmp_path / "shards")
    shards = Streaming(path=str(tmp_path / "shards")).dataset("val")
    assert shards.stored(3).name == "val/3"
    for index in range(12):
        assert np.array_equal(np.asarray(shards[index][0]), pixels[index].permute(1, 2, 0).numpy())


def test_png_keeps_pil_images_and_refuses_floats():
    image = Image.effect_noise((8, 6), 90).convert("RGB")
    assert decode_image(ImageBytes("a", png(image))).tobytes() == image.tobytes()
    with pytest.raises(ValueError, match=r"torch\.float32 cannot be written"):
        png(torch.rand(3, 4, 4))


def test_soft_labels_are_refused(tmp_path):
    from frostline.data.random_noise import RandomNoise

    images = RandomNoise(length=3, val_length=0, test_length=0, classes=4, seed=0, image_size=8).dataset("train")
    with pytest.raises(ValueError, match="train images have soft labels"):
        ChunkWriter().write({"train": images}, classes=list("abcd"), output=tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []


# Broken images


@pytest.fixture
def broken(tmp_path):
    """Twelve images a class, of which three cannot be read."""
    folder = tmp_path / "photos"
    for index in range(24):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (index, 0, 0)).save(path)
    (folder / "a/0.png").write_bytes(b"")
    (folder / "a/2.png").write_bytes((folder / "a/4.png").read_bytes()[:40])
    (folder / "b/1.png").write_text("no image")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_all_named_and_nothing_is_written(broken, tmp_path, workers):
    with pytest.raises(ValueError) as caught:
        pack(broken, tmp_path / "shards", workers=workers)
    first, *lines = str(caught.value).splitlines()
    assert first == (
        "3 images cannot be read, so nothing was written. Fix or remove them, or leave them out with skip_broken=true:"
    )
    named = sorted(line.strip() for line in lines)
    assert [line.partition(": ")[0] for line in named] == [
        str(broken / name) for name in ("a/0.png", "a/2.png", "b/1.png")
    ]
    assert named[0].endswith("empty file (0 bytes)")
    assert list(tmp_path.iterdir()) == [broken]


def test_broken_images_are_left_out_on_request_and_named(broken, tmp_path):
    source = ImageFolder(path=broken)
    shards = ChunkWriter(skip_broken=True).write(splits(source), classes=source.classes, output=tmp_path / "shards")
    assert len(shards.broken) == 3
    assert sum(shards.images.values()) == 21
    ours = Streaming(path=str(tmp_path / "shards"))
    assert sum(len(ours.dataset(split)) for split in SPLITS) == 21
    assert {split: len(ours.dataset(split)) for split in SPLITS} == shards.images


def test_a_class_of_which_nothing_is_left_is_refused(broken, tmp_path):
    for path in (broken / "a").iterdir():
        path.write_bytes(b"")
    source = ImageFolder(path=broken)
    with pytest.raises(ValueError, match="No training image is left of 'a'; nothing was written"):
        ChunkWriter(skip_broken=True).write(splits(source), classes=source.classes, output=tmp_path / "shards")
    assert list(tmp_path.iterdir()) == [broken]


# Whole or not at all


def test_a_filled_output_is_refused_and_an_empty_one_taken(photos, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already, and not empty"):
        pack(photos, tmp_path / "full")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]
    (tmp_path / "empty").mkdir()
    pack(photos, tmp_path / "empty")
    assert (tmp_path / "empty" / MANIFEST).is_file()


def test_of_two_that_write_into_one_folder_one_wins_whole(photos, shards, tmp_path, tmp_path_factory):
    """The other ends with a message; the folder is the winner's, byte by byte."""
    code = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "from tests.data.conftest import pack; from pathlib import Path\n"
        f"pack(Path({str(photos)!r}), Path({str(tmp_path / 'shards')!r}))"
    )
    errors = [tmp_path_factory.mktemp("output") / "stderr" for _ in range(2)]
    both = [Started([sys.executable, "-c", code], stderr=file) for file in errors]
    codes = sorted(process.wait(200) for process in both)
    errors = [file.read_text() for file in errors]
    assert codes == [0, 1], errors
    assert any("is there already, and not empty" in error for error in errors)
    assert contents(tmp_path / "shards") == contents(shards)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_at_any_image_it_leaves_no_output(photos, tmp_path, tmp_path_factory, signum):
    """SIGKILL leaves a hidden folder without a manifest, which no source takes for shards."""
    code = (
        "import signal, sys, time; sys.path[:0] = ['.', 'tests']\n"
        # A shell that starts the tests in its background has SIGINT ignored, by what they start, too.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from frostline.data.chunk_writer import ChunkWriter\n"
        "from frostline.data.image_folder import ImageFolder\n"
        f"source = ImageFolder(path={str(photos)!r})\n"
        "def slowly(split, done):\n    print(done, flush=True)\n    time.sleep(0.05)\n"
        "ChunkWriter(chunk_size=0.004).write({s: source.dataset(s) for s in ('train', 'val', 'test')},\n"
        f"    classes=source.classes, output=Path({str(tmp_path / 'shards')!r}), progress=slowly)"
    )
    printed = tmp_path_factory.mktemp("output") / "stdout"
    process = Started([sys.executable, "-c", code], stdout=printed)
    end = time.monotonic() + 60
    while not printed.exists() or "40" not in printed.read_text().split():
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signum)
    process.wait(60)
    time.sleep(0.1)
    left = [path.name for path in tmp_path.iterdir()]
    assert "shards" not in left
    if signum == signal.SIGINT:
        assert left == []
    else:
        assert left == [f".shards.{process.pid}.part"]
        assert not (tmp_path / left[0] / MANIFEST).exists()


def test_the_schema_knows_the_manifests_name():
    assert schema.MANIFEST == MANIFEST


def test_a_name_that_is_no_utf8_is_kept(tmp_path):
    root = tmp_path / "photos"
    for folder in ("a", "b"):
        (root / folder).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8)).save(root / folder / f"{number}.png")
    os.rename(root / "a/0.png", os.fsencode(root) + b"/a/K\xfcche.png")
    pack(root, tmp_path / "out")
    names = set()
    for split in SPLITS:
        images = Streaming(path=str(tmp_path / "out")).dataset(split)
        names |= {images.stored(index).name for index in range(len(images))}
    assert "a/K\\xfcche.png" in names
    assert len(names) == 20
