"""Image folders, CSV tables, and files for prediction: what is accepted, and what each error names."""

import mmap
import os

import numpy as np
import pytest
import torch
from PIL import Image

from frostline.data.csv_table import CsvTable
from frostline.data.files import FileImages, LabelledFile
from frostline.data.image_file import UnreadableImage
from frostline.data.image_folder import ImageFolder
from frostline.data.prediction_files import ImageFiles, find_images
from frostline.data.source import ImageSource
from frostline.data.spec import DataSpec
from frostline.data.transforms import evaluation_transform


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, value, value)).save(path)
    return path


def spec(image_size):
    return DataSpec(classes=["a"], mean=[0.5] * 3, std=[0.5] * 3, image_size=image_size)


def folder(root, counts, endings=("jpg",)):
    for name, count in counts.items():
        for number in range(count):
            image(root / name / f"{number}.{endings[number % len(endings)]}", number)
    return root


def paths(source, split):
    return set(source.dataset(split).paths)


class TestImageFolder:
    def test_one_folder_of_class_folders_is_split(self, tmp_path):
        source = ImageFolder(path=folder(tmp_path, {"cat": 20, "ant": 10}), val_fraction=0.1, test_fraction=0.2)
        assert isinstance(source, ImageSource)
        assert source.classes == ["ant", "cat"]
        labels = {split: source.dataset(split).labels for split in ("train", "val", "test")}
        assert {split: (part.count(0), part.count(1)) for split, part in labels.items()} == {
            "train": (7, 14),
            "val": (1, 2),
            "test": (2, 4),
        }
        everything = [path for split in labels for path in paths(source, split)]
        assert len(everything) == len(set(everything)) == 30
        shown, label = source.dataset("train")[0]
        assert shown.mode == "RGB"
        assert source.classes[label] in source.dataset("train").paths[0]

    def test_the_split_is_seeded(self, tmp_path):
        folder(tmp_path, {"a": 20, "b": 20})
        first, again, other = (paths(ImageFolder(path=tmp_path, split_seed=seed), "test") for seed in (0, 0, 1))
        assert first == again
        assert first != other

    @pytest.mark.parametrize("val", ["val", "valid", "validation"])
    def test_split_folders(self, tmp_path, val):
        for split, count in (("train", 3), (val, 2), ("test", 1)):
            folder(tmp_path / split, {"a": count, "b": count})
        source = ImageFolder(path=tmp_path)
        assert [len(source.dataset(split)) for split in ("train", "val", "test")] == [6, 4, 2]
        assert all(f"/{val}/" in path for path in paths(source, "val"))

    def test_train_without_val_gives_up_a_part(self, tmp_path):
        folder(tmp_path / "train", {"a": 10, "b": 20})
        source = ImageFolder(path=tmp_path, val_fraction=0.1)
        assert [len(source.dataset(split)) for split in ("train", "val")] == [27, 3]
        assert source.dataset("test") is None

    def test_endings_in_any_case_hidden_files_and_others(self, tmp_path):
        folder(tmp_path, {"a": 8, "b": 8}, endings=("JPG", "png", "Jpeg", "webp"))
        (tmp_path / "a" / ".hidden.jpg").write_bytes(b"no")
        (tmp_path / "a" / "notes.txt").write_text("no")
        folder(tmp_path / ".cache", {"c": 2})
        source = ImageFolder(path=tmp_path, val_fraction=0, test_fraction=0)
        assert source.classes == ["a", "b"]
        assert len(source.dataset("train")) == 16

    def test_folders_within_a_class_folder_belong_to_it(self, tmp_path):
        folder(tmp_path, {"a/x": 2, "a/y": 2, "b": 4})
        assert ImageFolder(path=tmp_path, val_fraction=0, test_fraction=0).dataset("train").labels.count(0) == 4

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"^path=.*nowhere: no such folder"):
            ImageFolder(path=tmp_path / "nowhere")

    def test_no_class_folders(self, tmp_path):
        with pytest.raises(ValueError, match="no class folders in it"):
            ImageFolder(path=tmp_path)

    def test_loose_images(self, tmp_path):
        image(tmp_path / "1.jpg")
        with pytest.raises(ValueError, match=r"Images lie in it directly; put each class's images in a folder"):
            ImageFolder(path=tmp_path)

    def test_a_class_folder_without_images(self, tmp_path):
        folder(tmp_path, {"a": 4})
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "x.heic").touch()
        with pytest.raises(ValueError, match=r"/b: no images in this class folder. It holds .heic"):
            ImageFolder(path=tmp_path)

    def test_a_class_of_val_that_train_lacks(self, tmp_path):
        folder(tmp_path / "train", {"a": 2, "b": 2})
        folder(tmp_path / "val", {"a": 2, "z": 2})
        with pytest.raises(ValueError, match=r"class 'z' of val is not among the classes of train \(a, b\)"):
            ImageFolder(path=tmp_path)

    def test_a_class_too_small_to_split(self, tmp_path):
        with pytest.raises(ValueError, match="'b' has 2 images, too few to split"):
            ImageFolder(path=folder(tmp_path, {"a": 9, "b": 2}))

    def test_test_without_train(self, tmp_path):
        folder(tmp_path / "test", {"a": 2})
        with pytest.raises(ValueError, match="but no train folder"):
            ImageFolder(path=tmp_path)

    def test_two_folders_for_validation(self, tmp_path):
        for split in ("train", "val", "valid"):
            folder(tmp_path / split, {"a": 2})
        with pytest.raises(ValueError, match="val and valid both mean val"):
            ImageFolder(path=tmp_path)

    def test_a_broken_file_is_named(self, tmp_path):
        folder(tmp_path, {"a": 3, "b": 3})
        broken = tmp_path / "a" / "0.jpg"
        broken.write_bytes(broken.read_bytes()[:100])
        images = ImageFolder(path=tmp_path, val_fraction=0, test_fraction=0).dataset("train")
        with pytest.raises(UnreadableImage, match=r"a/0\.jpg: cannot be decoded"):
            images[images.paths.index(str(broken))]

    def test_the_limit_on_pixels(self, tmp_path):
        images = ImageFolder(path=folder(tmp_path, {"a": 3, "b": 3}), max_pixels=119).dataset("train")
        with pytest.raises(UnreadableImage, match="12 x 10 pixels, more than the limit of 119"):
            images[0]


class TestCsvTable:
    def table(self, tmp_path, *lines, header="path,label"):
        for number in range(6):
            image(tmp_path / "images" / f"{number}.png", number)
        path = tmp_path / "list.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    def test_paths_start_at_the_files_folder(self, tmp_path):
        path = self.table(tmp_path, "images/0.png,b", f"{tmp_path}/images/1.png,a", "images/2.png, b ")
        source = CsvTable(path=path, val_fraction=0, test_fraction=0)
        assert isinstance(source, ImageSource)
        assert source.classes == ["a", "b"]
        assert source.dataset("train").labels == [1, 0, 1]
        assert source.dataset("train")[1][0].getpixel((0, 0)) == (1, 1, 1)
        assert source.dataset("val") is None

    def test_without_a_split_column_it_is_split(self, tmp_path):
        path = self.table(tmp_path, *(f"images/{number}.png,{'ab'[number % 2]}" for number in range(6)))
        source = CsvTable(path=path)
        assert [len(source.dataset(split)) for split in ("train", "val", "test")] == [2, 2, 2]

    def test_a_split_column(self, tmp_path):
        lines = ["0.png,7,train", "1.png,10,train", "2.png,7,valid", "3.png,10,test"]
        path = self.table(tmp_path, *(f"images/{line}" for line in lines), header="path,label,split")
        source = CsvTable(path=path)
        assert source.classes == ["7", "10"]
        assert [source.dataset(split).labels for split in ("train", "val", "test")] == [[0, 1], [0], [1]]

    def test_a_byte_order_mark(self, tmp_path):
        path = self.table(tmp_path, "images/0.png,a", "images/1.png,b")
        path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
        assert CsvTable(path=path, val_fraction=0, test_fraction=0).classes == ["a", "b"]

    @pytest.mark.parametrize(
        ("header", "lines", "message"),
        [
            ("file,label", ["images/0.png,a"], r"list\.csv:1: no column 'path'; the columns are file, label"),
            ("path,label", [], "no images are listed"),
            ("path,label", ["images/0.png,a", "images/9.png,a"], r"list\.csv:3: no such image: .*9\.png"),
            ("path,label", ["images/0.png,"], r"list\.csv:2: path or label is empty"),
            ("path,label", ["images/0.png"], r"list\.csv:2: path or label is empty"),
            ("path,label,split", ["images/0.png,a,more"], r"list\.csv:2: split 'more' is none of train, val"),
            ("path,label,split", ["images/0.png,a,test"], "no line has split=train"),
            (
                "path,label,split",
                ["images/0.png,a,train", "images/1.png,b,test"],
                r"list\.csv:3: class 'b' of test has no training image",
            ),
            (
                "path,label,split",
                ["images/0.png,a,train", "images/1.png,b,train", "images/0.png,a,test"],
                r"list\.csv:4 \(.*/0\.png\) is 'a' in test, but .*list\.csv:2 \(.*\), the same file, is 'a' in train",
            ),
        ],
    )
    def test_errors_name_file_and_line(self, tmp_path, header, lines, message):
        with pytest.raises(ValueError, match=message):
            CsvTable(path=self.table(tmp_path, *lines, header=header))

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            CsvTable(path=tmp_path / "none.csv")


class TestPrediction:
    def test_folders_files_and_patterns_each_once(self, tmp_path):
        names = ["b.JPG", "deep/er/a.png", ".hidden.png", "notes.txt"]
        made = {name: image(tmp_path / f"{name}.png").rename(tmp_path / name) for name in names}
        assert find_images([tmp_path]) == [made["b.JPG"], made["deep/er/a.png"]]
        assert find_images([made["notes.txt"], tmp_path / "b.JPG", tmp_path]) == [
            made["notes.txt"],
            made["b.JPG"],
            made["deep/er/a.png"],
        ]
        assert find_images([f"{tmp_path}/*"]) == [made["b.JPG"]]
        assert find_images([f"{tmp_path}/**/*.png"]) == [made["deep/er/a.png"]]
        for name in ("one", "two"):  # links that lead upwards are not followed
            (tmp_path / "deep" / name).symlink_to("..")
        assert find_images([f"{tmp_path}/**/*.png"]) == [made["deep/er/a.png"]]

    def test_nothing_found(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            find_images([tmp_path / "none"])
        with pytest.raises(ValueError, match="no images there"):
            find_images([tmp_path])
        with pytest.raises(ValueError, match="no images there"):
            find_images([f"{tmp_path}/*.jpg"])
        with pytest.raises(ValueError, match="No inputs"):
            find_images([])

    def test_a_broken_file_gets_its_own_row_with_the_reason(self, tmp_path):
        good, bad = image(tmp_path / "good.png", 9), tmp_path / "bad.png"
        bad.touch()
        files = ImageFiles([good, bad], spec=spec(8))
        tensor, path, reason = files[0]
        assert (path, reason) == (str(good), "")
        assert torch.equal(tensor, torch.full((3, 8, 8), 9, dtype=torch.uint8))
        assert files[1] == (None, str(bad), "empty file (0 bytes)")
        assert len(files) == 2


def test_photographs_come_out_as_they_went_in(tmp_path):
    """Decoding, resizing and cropping a smooth picture keeps its colours where they are."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(128)), -1)
    Image.fromarray(picture).save(tmp_path / "a.png")
    tensor, _, _ = ImageFiles([tmp_path / "a.png"], spec=spec(32))[0]
    small = picture.reshape(32, 2, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(tensor.numpy().astype(float) - small)[:, 1:-1, 1:-1].max() <= 2


def save(path, seed, *, like=None):
    """An image of noise; with `like`, under the times of that file's state."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="bmp")
    if like is not None:
        os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))


def write_in_place(folder):
    save(folder / "a.bmp", 5, like=(folder / "a.bmp").stat())


def replace(folder):
    save(folder / "new", 5, like=(folder / "a.bmp").stat())
    (folder / "new").replace(folder / "a.bmp")


def map_in_place(folder):
    before = (folder / "a.bmp").stat()
    with (folder / "a.bmp").open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        content[-1] ^= 1
        content.flush()
    os.utime(folder / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))


def swap(folder):
    (folder / "a.bmp").rename(folder / "c")
    (folder / "b.bmp").rename(folder / "a.bmp")
    (folder / "c").rename(folder / "b.bmp")


def swap_folders(folder):
    (folder / "one").rename(folder / "c")
    (folder / "two").rename(folder / "one")
    (folder / "c").rename(folder / "two")


def link_another(folder):
    (folder / "a.bmp").unlink()
    (folder / "a.bmp").hardlink_to(folder / "b.bmp")


def point_elsewhere(folder):
    (folder / "link.bmp").unlink()
    (folder / "link.bmp").symlink_to("b.bmp")


def remove(folder):
    (folder / "a.bmp").unlink()


EDITS = [write_in_place, replace, map_in_place, swap, swap_folders, link_another, point_elsewhere, remove]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_another_image_under_the_same_name_size_and_time_is_another_identity(tmp_path, edit):
    """At once after the first was written, too: within a tick of the file system's clock."""
    save(tmp_path / "a.bmp", 0)
    like = (tmp_path / "a.bmp").stat()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for seed, name in enumerate(("b.bmp", "one/a.bmp", "two/a.bmp"), start=1):
        save(tmp_path / name, seed, like=like)
    (tmp_path / "link.bmp").symlink_to("a.bmp")
    paths = [str(tmp_path / name) for name in ("a.bmp", "b.bmp", "one/a.bmp", "two/a.bmp", "link.bmp")]
    images = FileImages([LabelledFile(path, 0) for path in paths])
    before = images.identity
    assert images.identity == before
    edit(tmp_path)
    assert images.identity != before


def test_labels_are_no_part_of_the_identity(tmp_path):
    save(tmp_path / "a.bmp", 0)
    path = str(tmp_path / "a.bmp")
    assert FileImages([LabelledFile(path, 0)]).identity == FileImages([LabelledFile(path, 1)]).identity


def test_a_prediction_resizes_as_the_training_did(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    for interpolation in ("bilinear", "bicubic"):
        described = DataSpec.from_dict({**spec(8).as_dict(), "interpolation": interpolation})
        image, _, _ = ImageFiles([tmp_path / "a.png"], spec=described)[0]
        wanted = evaluation_transform(image_size=8, interpolation=interpolation)(Image.open(tmp_path / "a.png"))
        assert torch.equal(image, wanted)
