"""The cache of decoded images: the same batches and weights as without, in any process; nothing corrupt or outdated."""

import errno
import multiprocessing
import os
import pickle
from collections import namedtuple

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from tests.quiet import quiet_trainer
from torch import nn

from frostline.data.datamodule import ImageDataModule
from frostline.data.decoded_cache import GIB, CachedImages, DecodedCache, cached_images
from frostline.data.files import FileImages, LabelledFile
from frostline.data.image_file import UnreadableImage
from frostline.data.image_folder import ImageFolder
from frostline.data.loading import Loading
from frostline.data.source import ArrayImages
from frostline.data.transforms import Augmentation


@pytest.fixture
def photos(tmp_path):
    """Two classes of six images of different sizes."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (20 + number, 30 - number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.{'png' if number % 2 else 'jpg'}")
    return tmp_path / "photos"


def source(photos, **options):
    return ImageFolder(path=photos, val_fraction=0.2, test_fraction=0.2, **options)


def data(photos, *, augment="standard", workers=0, **options):
    return ImageDataModule(
        source=source(photos, **options),
        image_size=16,
        batch_size=4,
        augment=Augmentation(name=augment),
        loading=Loading(workers=workers),
    )


def opened(photos, folder, **options):
    """The validation images as a loader reads them."""
    return source(photos, decoded_cache=folder, **options).dataset("val").for_shorter_side(16)


def files_in(folder):
    return sorted(folder.glob("*.images"))


@pytest.mark.parametrize("augment", ["none", "light", "standard", "trivial"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_bit_identical_while_it_is_written_and_after(photos, tmp_path, augment, workers):
    plain, kept = (
        data(photos, augment=augment),
        data(photos, augment=augment, workers=workers, decoded_cache=tmp_path / "k"),
    )
    for _ in range(2):
        for one, other in zip(plain.train_dataloader(), kept.train_dataloader(), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
        for one, other in zip(plain.val_dataloader(), kept.val_dataloader(), strict=True):
            assert torch.equal(one[0], other[0])
    images = kept.train_dataloader().dataset.images
    assert images.file.written() == len(images) == 8


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0].float() / 255), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def test_training_gives_bit_identical_weights(photos, tmp_path):
    weights = []
    for options in ({}, {"decoded_cache": tmp_path / "k"}, {"decoded_cache": tmp_path / "k"}):
        torch.manual_seed(0)
        net = Net()
        trainer = quiet_trainer(max_epochs=2, limit_val_batches=0)
        trainer.fit(net, data(photos, **options))
        weights.append(net.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
        assert torch.equal(value, weights[2][name])


def test_a_later_run_decodes_nothing(photos, tmp_path, monkeypatch):
    first = opened(photos, tmp_path / "k")
    expected = [np.asarray(first[index][0]) for index in range(len(first))]
    monkeypatch.setattr("frostline.data.files.decode_image", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr("frostline.data.files.decoded_size", lambda *_, **__: pytest.fail("opened"))
    later = opened(photos, tmp_path / "k")
    for index, pixels in enumerate(expected):
        image, label = later[index]
        assert np.array_equal(image.permute(1, 2, 0), pixels)
        assert label == later.labels[index]


def read_all(images, queue=None):
    total = [int(torch.as_tensor(np.asarray(images[index][0]).astype(np.int64)).sum()) for index in range(len(images))]
    if queue is not None:
        queue.put(total)
    return total


@pytest.mark.parametrize("method", ["fork", "forkserver"])
# Python's own advice about forking a process with threads; loaders do it too.
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_several_processes_write_and_read_one_file(photos, tmp_path, method):
    images = opened(photos, tmp_path / "k")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=read_all, args=(images, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    totals = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert images.file.written() == len(images)
    assert totals[0] == totals[1] == read_all(images) == read_all(source(photos).dataset("val"))


def test_a_pickled_copy_reads_the_same(photos, tmp_path):
    images = opened(photos, tmp_path / "k")
    read_all(images)
    assert read_all(pickle.loads(pickle.dumps(images))) == read_all(images)


class TestWhatTheKeyHolds:
    @pytest.fixture
    def key(self, photos):
        def key(**options):
            return source(photos, **options).dataset("val").identity

        return key

    def test_nothing_changed(self, key):
        assert key() == key()

    def test_a_files_time(self, key, photos):
        before = key()
        for path in source(photos).dataset("val").paths:
            os.utime(path, ns=(1, 1))
        assert key() != before

    def test_a_files_size(self, key, photos):
        before = key()
        path = source(photos).dataset("val").paths[0]
        found = os.stat(path)
        with open(path, "ab") as file:
            file.write(b"\0")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        assert key() != before

    def test_which_files(self, key):
        assert key(split_seed=1) != key(split_seed=2)

    def test_how_they_are_decoded(self, photos):
        images = source(photos).dataset("val")
        whole = source(photos, scaled_decoding=False).dataset("val")
        one, other, unscaled = images.for_shorter_side(16), images.for_shorter_side(32), whole.for_shorter_side(16)
        assert len({one.identity, other.identity, unscaled.identity}) == 3

    def test_a_changed_file_is_decoded_again(self, photos, tmp_path):
        images = opened(photos, tmp_path / "k")
        read_all(images)
        path = images.images.paths[0]
        Image.new("RGB", (24, 24), (7, 7, 7)).save(path)
        assert np.asarray(opened(photos, tmp_path / "k")[0][0]).shape == (24, 24, 3)


class TestCorruptFiles:
    def test_one_flipped_bit_is_recognised_and_the_image_is_written_again(self, photos, tmp_path):
        images = opened(photos, tmp_path / "k")
        expected = read_all(images)
        with images.file.path.open("r+b") as file:
            file.seek(images.file.begins[1] + 11)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        later = opened(photos, tmp_path / "k")
        assert later.read(0) is not None
        assert later.read(1) is None
        assert read_all(later) == expected
        assert opened(photos, tmp_path / "k").read(1) is not None

    def test_a_file_that_was_cut(self, photos, tmp_path):
        images = opened(photos, tmp_path / "k")
        expected = read_all(images)
        os.truncate(images.file.path, int(images.file.begins[-1]) - 10)
        assert images.read(len(images) - 1) is None
        assert read_all(images) == expected

    @pytest.mark.parametrize("content", [b"", b"something else", b"FROSTPK2" + bytes(200)])
    def test_a_foreign_or_older_file_is_created_again(self, photos, tmp_path, content):
        opened(photos, tmp_path / "k").file.path.write_bytes(content)
        (tmp_path / "k" / "old.packed").touch()  # as an earlier version named its files
        images = opened(photos, tmp_path / "k")
        read_all(images)
        assert images.file.written() == len(images)
        assert not (tmp_path / "k" / "old.packed").exists()

    def test_an_unreadable_image_is_named_as_without(self, photos, tmp_path):
        broken = source(photos).dataset("val").paths[0]
        with open(broken, "wb") as file:
            file.write(b"broken")
        with pytest.raises(UnreadableImage, match="no image"):
            opened(photos, tmp_path / "k")[0]

    def test_an_image_with_a_wrong_header_is_decoded_each_time(self, photos, tmp_path, monkeypatch):
        monkeypatch.setattr("frostline.data.files.decoded_size", lambda *_, **__: (3, 3))
        images = opened(photos, tmp_path / "k")
        assert read_all(images) == read_all(source(photos).dataset("val"))
        assert images.file.written() == 0


def cached(folder, key, size, *, limit=GIB, count=1):
    images = ArrayImages(images=torch.zeros(count, 3, 1, 1, dtype=torch.uint8), labels=[0] * count)
    return cached_images(images, DecodedCache(folder=folder, limit=limit), key=key, sizes=lambda: [size] * count)


class TestSpace:
    def test_more_than_the_limit_is_refused_with_the_size(self, photos, tmp_path):
        with pytest.raises(
            ValueError, match=r"2 decoded images take 1\.50 GiB, more than decoded_cache_limit=1\. Type d"
        ):
            cached(tmp_path, "k", (2**14, 2**14), count=2)
        assert files_in(tmp_path) == []
        with pytest.raises(ValueError, match=r"more than decoded_cache_limit"):
            opened(photos, tmp_path / "k", decoded_cache_limit=1e-6)
        assert files_in(tmp_path / "k") == []

    def test_the_least_recently_used_file_that_is_not_in_use_is_evicted(self, tmp_path):
        for name in ("old", "new"):
            size = cached(tmp_path, name, (100, 100)).file.path.stat().st_size
        os.utime(tmp_path / "old.images", (1, 1))
        used = cached(tmp_path, "third", (100, 100), limit=2 * size + 10)
        assert [path.stem for path in files_in(tmp_path)] == ["new", "third"]
        with pytest.raises(ValueError, match=r"beside 0\.00 GiB in use there, more than decoded_cache_limit"):
            cached(tmp_path, "other", (100, 200), limit=2 * size + 10)
        assert files_in(tmp_path) == [used.file.path]

    def test_a_disk_without_space_is_reported_and_training_continues(self, photos, tmp_path, monkeypatch, caplog):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 10, 0))
        images = opened(photos, tmp_path / "k")
        assert isinstance(images, FileImages)
        assert "0.00 GiB are free on the disk" in caplog.text
        assert read_all(images)

    def test_a_disk_that_runs_full_is_reported_once_and_training_continues(self, photos, tmp_path, monkeypatch, caplog):
        images = opened(photos, tmp_path / "k")
        images[0]

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        assert read_all(images) == read_all(source(photos).dataset("val"))
        assert images.file.written() == 1
        assert caplog.text.count("no space left on the disk") == 1

    def test_a_folder_that_cannot_be(self, photos, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match=r"decoded_cache=.*file: cannot be used"):
            opened(photos, tmp_path / "file")


def test_images_outside_files_are_read_as_they_are():
    from frostline.data.digits import Digits

    made = ImageDataModule(source=Digits(), image_size=16)
    assert made.decoded(made.images("train")) is made.images("train")


def test_the_cached_images_are_a_split(photos, tmp_path):
    images = opened(photos, tmp_path / "k")
    assert isinstance(images, CachedImages)
    plain = FileImages([LabelledFile(*file) for file in images.images.files])
    assert (list(images.labels), len(images)) == (list(plain.labels), len(plain))
