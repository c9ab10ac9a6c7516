"""data=streaming gives what the folder gives, chunk after chunk, from a disk or a store."""

import json
import pickle
import shutil
import subprocess
import sys
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from frostline.data.chunk_folder import ChunkError
from frostline.data.datamodule import ImageDataModule
from frostline.data.image_file import UnreadableImage
from frostline.data.image_folder import ImageFolder
from frostline.data.loading import Loading
from frostline.data.order import LANES
from frostline.data.seeding import stable_seed
from frostline.data.source import SPLITS, ImageSource, ScalableImages
from frostline.data.streaming import Streaming, default_cache
from frostline.data.transforms import Augmentation

from .conftest import pack, upload


def pixels(image) -> np.ndarray:
    return np.asarray(image)


def packing_order(images, split: str, seed: int = 0) -> list[int]:
    """The folder's index of each image of the shards."""
    if split != "train":
        return list(range(len(images)))
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(stable_seed(seed, "pack"))).tolist()


@pytest.mark.parametrize("split", SPLITS)
def test_images_labels_and_classes_are_the_folders_bit_for_bit(photos, shards, split):
    folder, streaming = ImageFolder(path=photos), Streaming(path=str(shards))
    assert isinstance(streaming, ImageSource)
    assert list(streaming.classes) == list(folder.classes) == ["fire", "fog", "ice"]
    ours, theirs = streaming.dataset(split), folder.dataset(split)
    order = packing_order(theirs, split)
    assert len(ours) == len(theirs) == len(order)
    assert list(ours.labels) == [theirs.labels[index] for index in order]
    for index, place in enumerate(order):
        image, label = ours[index]
        expected, expected_label = theirs[place]
        assert label == expected_label
        assert np.array_equal(pixels(image), pixels(expected))
        assert ours.stored(index).content == Path(theirs.paths[place]).read_bytes()


def test_a_batch_from_the_shards_is_the_one_from_the_folder_where_the_order_is_the_same(photos, shards):
    """Without chunks the order is the folder's own, so the same seed must give equal tensors, augmentation included."""

    class InTheFoldersOrder(ImageFolder):
        def dataset(self, split):
            images, theirs = Streaming(path=str(shards)).dataset(split), super().dataset(split)
            places = {place: index for index, place in enumerate(packing_order(theirs, split))}

            class Reordered(type(theirs)):
                def __getitem__(self, index):
                    return images[places[index]]

            return Reordered(theirs.files)

    batches = []
    for source in (ImageFolder(path=photos), InTheFoldersOrder(path=photos)):
        data = ImageDataModule(source=source, image_size=16, batch_size=8, augment=Augmentation(name="standard"))
        batches.append([*data.train_dataloader(), *data.val_dataloader()])
    assert len(batches[0]) > 10
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_litdata_reads_the_folder_too(photos, shards):
    from litdata import StreamingDataset

    theirs, ours = StreamingDataset(str(shards / "train")), Streaming(path=str(shards)).dataset("train")
    assert len(theirs) == len(ours)
    for index in (0, 7, len(ours) - 1):
        assert tuple(theirs[index]) == tuple(ours.stored(index))


def test_large_photographs_are_decoded_at_reduced_size_as_the_folders_are(tmp_path):
    for name in ("a", "b"):
        for index in range(3):
            path = tmp_path / "photos" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").resize((2000, 1100)).convert("RGB").rotate(index).save(path)
    pack(tmp_path / "photos", tmp_path / "shards")
    ours, theirs = Streaming(path=str(tmp_path / "shards")), ImageFolder(path=tmp_path / "photos")
    images, expected = ours.dataset("val"), theirs.dataset("val")
    assert isinstance(images, ScalableImages)
    assert ours.scaled_decoding is True
    reduced = images.for_shorter_side(64)
    assert reduced[0][0].size == (250, 138)
    assert np.array_equal(pixels(reduced[0][0]), pixels(expected.for_shorter_side(64)[0][0]))
    assert images[0][0].size == (2000, 1100)
    whole = Streaming(path=str(tmp_path / "shards"), scaled_decoding=False).dataset("val").for_shorter_side(64)
    assert whole[0][0].size == (2000, 1100)


def test_the_identity_follows_the_images_and_the_settings(photos, shards, tmp_path):
    def identity(path, **options):
        return Streaming(path=str(path), **options).dataset("train").identity

    assert identity(shards) == identity(shards)
    pack(photos, tmp_path / "other", seed=1)
    pack(photos, tmp_path / "same")
    assert identity(tmp_path / "same") == identity(shards)
    words = [identity(shards), identity(tmp_path / "other"), identity(shards, max_pixels=10_000)]
    words.append(Streaming(path=str(shards)).dataset("train").for_shorter_side(8).identity)
    assert len(set(words)) == 4


def test_memory_holds_four_bytes_an_image_and_few_open_files(shards):
    images = Streaming(path=str(shards), window=8).dataset("train")
    assert isinstance(images.labels, array)
    assert images.labels.itemsize == 4
    for index in range(len(images)):
        assert images[index][1] == images.labels[index]
    assert len(images._open) <= 8 + LANES < len(images.entry.chunks)
    per_image = [
        value for value in vars(images).values() if isinstance(value, list | dict) and len(value) >= len(images)
    ]
    assert per_image == []
    assert sys.getsizeof(images.labels) < 5 * len(images) + 100
    assert len(pickle.loads(pickle.dumps(images))) == len(images)


def test_labels_are_what_the_datamodule_makes_of_any_others(shards):
    data = ImageDataModule(source=Streaming(path=str(shards)), image_size=16, batch_size=8)
    labels = list(Streaming(path=str(shards)).dataset("train").labels)
    assert data.class_counts == [labels.count(label) for label in range(3)]
    assert data.order_key["chunks"].startswith(f"{len(Streaming(path=str(shards)).dataset('train').entry.chunks)} ")
    assert data.order_key["window"] == 16


def test_balanced_sampling_is_refused_with_what_to_use(shards):
    data = ImageDataModule(source=Streaming(path=str(shards)), image_size=16, batch_size=8, sampling="balanced")
    with pytest.raises(ValueError, match=r"sampling=shuffled.*\(class_weights=balanced\)"):
        next(iter(data.train_dataloader()))


# From a store


def test_two_workers_stream_from_a_store_what_the_folder_holds(shards, uploaded, store, tmp_path):
    source = Streaming(path=uploaded, endpoint_url=store, cache_dir=tmp_path / "cache")
    batches = []
    for of, workers in ((source, 2), (Streaming(path=str(shards)), 0)):
        data = ImageDataModule(source=of, image_size=16, batch_size=8, loading=Loading(workers=workers))
        loader = data.train_dataloader()
        batches.append([batch for _ in range(2) for batch in loader] + list(data.val_dataloader()))
    assert len(batches[0]) > 30
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    fetched = sorted((tmp_path / "cache").glob("*.bin"))
    splits = source._manifest.splits
    assert len(fetched) == sum(len(splits[split].chunks) for split in ("train", "val"))
    assert list((tmp_path / "cache").glob("*.part")) == []


def test_the_cache_stays_below_its_limit_with_two_workers(shards, uploaded, store, tmp_path):
    limit = 90_000 / 2**30
    source = Streaming(path=uploaded, endpoint_url=store, cache_dir=tmp_path / "cache", cache_limit=limit, window=8)
    total = sum(chunk.bytes for chunk in source.dataset("train").entry.chunks)
    assert total > 1.5 * limit * 2**30  # or nothing would have to go
    data = ImageDataModule(source=source, image_size=16, batch_size=8, loading=Loading(workers=2))
    for _ in data.train_dataloader():
        held = 0
        for file in (tmp_path / "cache").iterdir():
            try:
                held += file.stat().st_size
            except FileNotFoundError:
                continue
        assert held <= limit * 2**30
    assert held > 0.5 * limit * 2**30


def test_a_cache_that_is_too_small_for_the_window_is_refused_with_what_it_needs(uploaded, store, tmp_path):
    with pytest.raises(ValueError, match=r"cache_limit=1e-05 GiB is too small: 24 chunks of train .*at least 8"):
        Streaming(path=uploaded, endpoint_url=store, cache_dir=tmp_path, cache_limit=1e-5)


def test_where_chunks_are_kept(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/frostline/chunks")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache/frostline/chunks"


# What goes wrong


def copied(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copied"))


def message(call, error=ChunkError) -> str:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_folder_without_shards(tmp_path):
    assert "no shards there (it has no frostline.json). `frostline pack` writes them." in message(
        lambda: Streaming(path=str(tmp_path))
    )
    assert message(lambda: Streaming(path=str(tmp_path / "none"))).endswith("none: no such folder.")


def test_a_split_that_is_not_there_is_none(shards, tmp_path):
    folder = copied(shards, tmp_path)
    manifest = json.loads((folder / "frostline.json").read_text())
    del manifest["splits"]["test"]
    (folder / "frostline.json").write_text(json.dumps(manifest))
    source = Streaming(path=str(folder))
    assert source.dataset("test") is None
    assert ImageDataModule(source=source, image_size=16, batch_size=8).test_dataloader() == []


def test_files_of_a_split_that_are_missing(shards, tmp_path):
    folder = copied(shards, tmp_path)
    (folder / "val/labels.npy").unlink()
    (folder / "train/chunk-0-3.bin").unlink()
    source = Streaming(path=str(folder))
    assert "val/labels.npy: missing, but listed in frostline.json" in message(lambda: source.dataset("val"))
    assert "chunk-0-3.bin: missing, but listed in frostline.json" in message(lambda: source.dataset("train"))


@pytest.mark.parametrize(
    ("change", "wanted_text"),
    [
        ({"version": 2}, "shards in version 2 of the format, and this frostline reads version 1"),
        ({"format": "another"}, "frostline.json is corrupt, or is not one of frostline's"),
        ({"splits": 3}, "frostline.json is corrupt"),
        (None, "frostline.json is corrupt"),
    ],
)
def test_another_version_and_a_corrupt_manifest(shards, tmp_path, change, wanted_text):
    folder = copied(shards, tmp_path)
    manifest = json.loads((folder / "frostline.json").read_text())
    (folder / "frostline.json").write_text('{"format": ' if change is None else json.dumps(manifest | change))
    assert wanted_text in message(lambda: Streaming(path=str(folder)))


@pytest.mark.parametrize(
    ("change", "wanted_text"),
    [
        (lambda train: train["chunks"].clear(), "train has 0 chunks in 0 files"),
        (lambda train: train["chunks"].append(train["chunks"][0]), "chunks in "),
        (lambda train: train.update(images=10**9), "train has 1000000000 images, its chunks"),
        (lambda train: train.update(labels_checksum="12"), "frostline.json is corrupt"),
        (lambda train: train["chunks"][0].update(images=0), "chunk-0-0.bin has 0 images"),
        (lambda train: train["chunks"][0].update(images=-1), "chunk-0-0.bin has -1 images"),
        (lambda train: train["chunks"][0].update(images=10**9), "1,000,000,000 images cannot lie in the"),
        (lambda train: train["chunks"][0].update(images=1.5), "chunk-0-0.bin has 1.5 images"),
        (lambda train: train["chunks"][0].update(bytes=True), "images in True bytes"),
        (lambda train: train["chunks"][0].update(bytes=None), "images in None bytes"),
        (lambda train: train["chunks"][0].pop("checksum"), "frostline.json is corrupt"),
    ],
)
def test_counts_that_cannot_be_are_refused_at_once(shards, tmp_path, change, wanted_text):
    folder = copied(shards, tmp_path)
    manifest = json.loads((folder / "frostline.json").read_text())
    change(manifest["splits"]["train"])
    (folder / "frostline.json").write_text(json.dumps(manifest))
    assert wanted_text in message(lambda: Streaming(path=str(folder)))


@pytest.mark.parametrize("file", ["../chunk-0-0.bin", "/etc/passwd", "", 3])
def test_a_manifest_names_no_file_of_another_folder(shards, tmp_path, file):
    folder = copied(shards, tmp_path)
    manifest = json.loads((folder / "frostline.json").read_text())
    manifest["splits"]["train"]["chunks"][0]["file"] = file
    (folder / "frostline.json").write_text(json.dumps(manifest))
    assert "frostline.json is corrupt" in message(lambda: Streaming(path=str(folder)))


def damage(path: Path, change) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(bytes(content))


def cut(content: bytearray) -> None:
    del content[-5:]


def empty(content: bytearray) -> None:
    content.clear()


def overwrite(place: int):
    def change(content: bytearray) -> None:
        content[place : place + 4] = b"\xff\xff\xff\x7f"

    return change


@pytest.mark.parametrize(
    ("change", "wanted_text"),
    [
        (cut, "bytes in place of"),
        (empty, "0 bytes in place of"),
        (overwrite(0), "its table of images is not what it was"),
        (overwrite(8), "its table of images is not what it was"),
    ],
)
def test_a_corrupt_chunk_is_named(shards, tmp_path, change, wanted_text):
    folder = copied(shards, tmp_path)
    damage(folder / "train/chunk-0-0.bin", change)
    images = Streaming(path=str(folder)).dataset("train")
    text = message(lambda: images[0])
    assert text.startswith(f"{folder}/train/chunk-0-0.bin: corrupt")
    assert wanted_text in text


def test_a_chunk_with_any_flipped_bit_is_refused_when_it_is_first_opened(shards, tmp_path):
    folder = copied(shards, tmp_path)
    file = folder / "train/chunk-0-0.bin"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file.write_bytes(bytes(content))
        images = Streaming(path=str(folder)).dataset("train")
        with pytest.raises(ChunkError, match=r"chunk-0-0\.bin: corrupt"):
            images[0]
    file.write_bytes(whole)
    assert images[0][0].mode == "RGB", "the same images read on when it is whole again"


def test_every_flipped_byte_of_a_chunk_is_an_image_or_one_sentence(shards, tmp_path):
    folder = copied(shards, tmp_path)
    file = folder / "train/chunk-0-0.bin"
    whole, images = file.read_bytes(), Streaming(path=str(folder)).dataset("train")
    count, sentences = images.entry.chunks[0].images, set()
    images._verified.fill_(True)  # it is corrupt while it is in use
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 0x81
        file.write_bytes(bytes(content))
        images._open.clear()
        for index in range(count):
            try:
                assert images[index][0].mode == "RGB"
            except (ChunkError, UnreadableImage) as error:
                sentences.add(type(error))
    assert sentences == {ChunkError, UnreadableImage}


def test_labels_of_other_images_are_noticed(shards, tmp_path):
    folder = copied(shards, tmp_path)
    shutil.copy(folder / "val/labels.npy", folder / "train/labels.npy")
    source = Streaming(path=str(folder))
    assert "train/labels.npy: corrupt, or of other images" in message(lambda: source.dataset("train"))


def test_an_image_that_cannot_be_decoded_is_named_as_it_was_in_its_file(shards, tmp_path):
    folder = copied(shards, tmp_path)
    images = Streaming(path=str(folder)).dataset("val")
    content = images.stored(1).content
    file = folder / "val/chunk-0-0.bin"
    whole = file.read_bytes()
    assert content in whole
    file.write_bytes(whole.replace(content, b"no image" + bytes(len(content) - 8)))
    images._open.clear()
    name = images.stored(1).name
    assert name.startswith("fire/")
    wanted_text = message(lambda: images[1], error=UnreadableImage)
    assert wanted_text.startswith(f"{name} (val image 1 of the shards): no image, or none of the formats")


def test_a_worker_tells_it_in_the_same_sentence(shards, tmp_path):
    folder = copied(shards, tmp_path)
    damage(folder / "val/chunk-0-0.bin", cut)
    images = Streaming(path=str(folder)).dataset("val")
    here = message(lambda: images[0])
    loader = DataLoader(images, num_workers=1, collate_fn=list)
    assert message(lambda: next(iter(loader))) == here


def test_a_chunk_that_arrives_corrupt_is_not_kept(shards, store, credentials, tmp_path):
    folder = copied(shards, tmp_path)
    damage(folder / "val/chunk-0-0.bin", overwrite(200))
    address = upload(folder, store)
    images = Streaming(path=address, endpoint_url=store, cache_dir=tmp_path / "cache").dataset("val")
    text = message(lambda: images[0])
    assert text.startswith(f"{address}/val/chunk-0-0.bin: corrupt")
    assert [file for file in (tmp_path / "cache").iterdir() if file.suffix in (".bin", ".part")] == []


def test_nothing_in_the_store(store, credentials, tmp_path):
    address = upload(tmp_path, store)

    def read(path):
        return message(lambda: Streaming(path=path, endpoint_url=store, cache_dir=tmp_path / "cache"))

    assert read(address).startswith(f"path={address}: no shards there")
    assert "no such bucket" in read("s3://not-there/sets") or "no shards" in read("s3://not-there/a")


def test_no_credentials(no_credentials, store, tmp_path):
    text = message(lambda: Streaming(path="s3://bucket/sets", endpoint_url=store, cache_dir=tmp_path))
    assert "no credentials for the store. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in text


def test_a_store_that_is_not_there(credentials, tmp_path):
    source = {"path": "s3://bucket/sets", "endpoint_url": "http://127.0.0.1:9", "cache_dir": tmp_path}
    text = message(lambda: Streaming(**source, timeout=1.0))
    assert "the store at http://127.0.0.1:9 does not give frostline.json after 3 tries of up to 1 s" in text


def test_a_store_that_does_not_answer_is_given_up_after_the_time_out(credentials, tmp_path):
    import socket
    import time

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        text = message(lambda: Streaming(path="s3://b/c", endpoint_url=url, cache_dir=tmp_path, timeout=0.5))
    assert f"the store at {url} does not give frostline.json after 3 tries of up to 0.5 s" in text
    assert time.monotonic() - began < 30


def test_a_store_needs_boto3_and_a_folder_does_not(photos, shards, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert len(Streaming(path=str(shards)).dataset("val")) > 0
    assert "needs boto3. Type: pip install 'frostline[streaming]'" in message(
        lambda: Streaming(path="s3://b/c", cache_dir=tmp_path)
    )
    pack(photos, tmp_path / "out")


def test_a_label_that_differs_from_the_list_of_labels_is_noticed(shards, tmp_path):
    folder = copied(shards, tmp_path)
    images = Streaming(path=str(folder)).dataset("val")
    stored = images.stored(0)
    tail = stored.label.to_bytes(8, "little") + stored.name.encode()
    file = folder / "val/chunk-0-0.bin"
    assert file.read_bytes().count(tail) == 1
    file.write_bytes(file.read_bytes().replace(tail, (stored.label + 1).to_bytes(8, "little") + stored.name.encode()))
    images._open.clear()
    assert "of other images than those of labels.npy" in message(lambda: images[0])


def test_no_store_s_library_is_imported_to_read_a_folder(shards):
    code = (
        "import sys, frostline; from frostline.data.streaming import Streaming\n"
        f"Streaming(path={str(shards)!r}).dataset('train')[0]\n"
        "print([name for name in ('litdata', 'boto3', 'botocore', 'obstore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
