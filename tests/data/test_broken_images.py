"""Broken images are all named before the first step, or left out and named."""

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from tests.quiet import quiet_trainer
from torch import nn

from frostline.data import files
from frostline.data.csv_table import CsvTable
from frostline.data.datamodule import ImageDataModule
from frostline.data.files import broken_among, check_image
from frostline.data.folders import BROKEN
from frostline.data.image_file import UnreadableImage
from frostline.data.image_folder import ImageFolder
from frostline.data.torchvision_source import TorchvisionImages

ENDINGS = ("jpg", "png", "webp", "gif", "tif", "bmp")


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten images; five of the first are broken, each in its own way."""
    for name in ("cat", "dog"):
        for number in range(10):
            image(tmp_path / name / f"{number}.{'jpg' if number % 2 else 'png'}", number)
    cats = tmp_path / "cat"
    for name in ("0.png", "1.jpg"):
        content = (cats / name).read_bytes()
        (cats / name).write_bytes(content[: len(content) // 2])
    content = bytearray((cats / "2.png").read_bytes())
    content[len(content) // 2] ^= 1
    (cats / "2.png").write_bytes(content)
    (cats / "3.jpg").write_bytes(b"")
    (cats / "4.png").write_text("<html>not found</html>")
    return tmp_path


BAD = ("0.png", "1.jpg", "2.png", "3.jpg", "4.png")


class TestCheck:
    @pytest.mark.parametrize("ending", ENDINGS)
    @pytest.mark.parametrize("thorough", [False, True])
    def test_whole_images_pass_and_cut_ones_do_not(self, tmp_path, ending, thorough):
        path = image(tmp_path / f"a.{ending}")
        content = path.read_bytes()
        check_image(path, thorough=thorough)
        for part in (0.1, 0.5, 0.9):
            path.write_bytes(content[: int(part * len(content))])
            with pytest.raises(UnreadableImage):
                check_image(path, thorough=thorough)

    def test_png_and_jpeg_are_not_decoded(self, tmp_path, monkeypatch):
        paths = [image(tmp_path / "a.jpg"), image(tmp_path / "b.png")]
        monkeypatch.setattr(files, "decode_image", lambda *_, **__: pytest.fail("decoded"))
        assert broken_among(list(map(str, paths))) == {}

    def test_a_png_without_its_last_bytes_is_an_image_still(self, tmp_path):
        path = image(tmp_path / "a.png")
        path.write_bytes(path.read_bytes()[:-6])
        check_image(path)

    def test_a_jpeg_with_something_behind_its_end_is_decoded(self, tmp_path):
        path = image(tmp_path / "a.jpg")
        path.write_bytes(path.read_bytes() + b"trailer of a phone")
        check_image(path)

    def test_as_many_as_there_are(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "CHECKED_AT_ONCE", 3)
        paths = [str(image(tmp_path / f"{number}.png")) for number in range(8)] + [str(tmp_path / "none.png")]
        (tmp_path / "4.png").write_bytes(b"x")
        found = broken_among(paths)
        assert {place: error.reason.partition(",")[0] for place, error in found.items()} == {
            4: "no image",
            8: "no such file",
        }


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def training_step(self, batch):
        pytest.fail("a step was taken")

    def validation_step(self, batch):
        pytest.fail("a step was taken")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TestRaise:
    def test_all_are_named_before_the_first_step(self, folder):
        data = ImageDataModule(source=ImageFolder(path=folder), image_size=8, batch_size=4)
        with pytest.raises(ValueError, match=r"(?s)^\d images that cannot be read:.*type on_bad_image=skip") as caught:
            data.check_images(("train", "val", "test"))
        assert all(f"cat/{name}: " in str(caught.value) for name in BAD)

    def test_lightnings_own_loop_checks_too(self, folder):
        source = ImageFolder(path=folder, test_fraction=0)
        trainer = quiet_trainer(max_epochs=1, use_distributed_sampler=False)
        with pytest.raises(ValueError, match="5 images that cannot be read"):
            trainer.fit(Classifier(), datamodule=ImageDataModule(source=source, image_size=8, batch_size=4))

    def test_a_split_is_checked_once(self, folder, monkeypatch):
        for name in BAD:
            (folder / "cat" / name).unlink()
        data = ImageDataModule(source=ImageFolder(path=folder), image_size=8, batch_size=4)
        data.check_images(("train",))
        monkeypatch.setattr(files, "check_image", lambda *_, **__: pytest.fail("checked again"))
        data.check_images(("train",))


class TestSkip:
    def test_the_others_are_used_and_these_are_named(self, folder):
        source = ImageFolder(path=folder, on_bad_image="skip")
        used = [path for split in ("train", "val", "test") for path in source.dataset(split).paths]
        assert len(used) == 15
        assert not [path for path in used if path.endswith(tuple(f"cat/{name}" for name in BAD))]
        assert source.left_out.counts == {BROKEN: 5}
        assert all(f"cat/{name}: " in source.notes[0] for name in BAD)

    def test_the_order_is_the_same_each_time(self, folder):
        first, again = (ImageFolder(path=folder, on_bad_image="skip").dataset("train").paths for _ in range(2))
        assert first == again

    def test_a_table(self, folder):
        rows = "".join(f"{path.relative_to(folder)},{path.parent.name}\n" for path in sorted(folder.glob("*/*.*")))
        (folder / "list.csv").write_text(f"path,label\n{rows}")
        source = CsvTable(path=folder / "list.csv", on_bad_image="skip")
        assert sum(len(source.dataset(split)) for split in ("train", "val", "test")) == 15
        assert "5 images that cannot be read" in source.notes[0]

    def test_a_class_of_broken_images_alone(self, folder):
        for number in range(5, 10):
            (folder / "cat" / f"{number}.{'jpg' if number % 2 else 'png'}").unlink()
        with pytest.raises(ValueError, match=r"No image is left of 'cat'\."):
            ImageFolder(path=folder, on_bad_image="skip")


class TestTorchvision:
    class Dataset:
        """Keeps files as torchvision's classes do: DTD and others by `_image_files`."""

        def __init__(self, paths):
            self._image_files, self._labels = paths, [0] * len(paths)

        def __len__(self):
            return len(self._image_files)

        def __getitem__(self, index):
            return Image.open(self._image_files[index]), 0

    def test_files_are_checked_and_a_broken_one_is_named_on_reading(self, folder):
        paths = sorted((folder / "cat").iterdir())
        images = TorchvisionImages(self.Dataset(paths)).subset([9, 4, 0])
        assert list(images.broken()) == [1, 2]
        with pytest.raises(UnreadableImage, match=r"cat/4\.png: cannot be decoded"):
            images[1]
        assert images[0][1] == 0
