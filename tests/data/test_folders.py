"""Folders as people have them: each image once, nothing left out in silence, and split folders under any usual name."""

import os
import unicodedata

import pytest
from PIL import Image

from frostline.config.groups import RUN_GROUPS
from frostline.data.csv_table import CsvTable
from frostline.data.datamodule import ImageDataModule
from frostline.data.folders import AGAIN, BY_CONTENT, ELSEWHERE, HIDDEN, LOOSE, UNREADABLE, LeftOut, split_of
from frostline.data.image_folder import ImageFolder
from frostline.data.prediction_files import find_images

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
SPLITS = ("train", "val", "test")


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, value, value)).save(path, format="PNG")
    return path


def folder(root, classes=("cat", "dog"), count=4):
    for name in classes:
        for number in range(count):
            image(root / name / f"{number}.png", number)
    return root


def lengths(source):
    return {split: len(images) for split in SPLITS if (images := source.dataset(split)) is not None}


class TestSplitNames:
    @pytest.mark.parametrize(
        ("split", "names"),
        {
            "train": "train Train TRAIN training train_set trainset TrainSet train-data images_train train2017",
            "val": "val valid validation Validation val_images VAL dev devset eval validation-split Val_Data",
            "test": "test Testing test_set holdout hold_out hold-out TestData test1 held_out",
        }.items(),
    )
    def test_usual_names(self, split, names):
        assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)

    @pytest.mark.parametrize(
        "name", ["cat", "bullet_train", "test_tube", "trainer", "devil", "valley", "train_test", "1"]
    )
    def test_names_of_classes(self, name):
        assert split_of(name) is None

    @pytest.mark.parametrize(
        "names",
        [
            "Training Testing",
            "Train Val",
            "train_set test_set",
            "TRAIN VALID TEST",
            "seg_train seg_test",
            "train dev holdout",
        ],
    )
    def test_they_are_no_classes(self, tmp_path, names):
        for name in names.split():
            folder(tmp_path / name)
        source = ImageFolder(path=tmp_path)
        assert source.classes == ["cat", "dog"]
        for split in SPLITS:
            if any(split in name.lower() for name in names.split()):
                assert all(f"/{split}" in path.lower() or f"_{split}" in path for path in source.dataset(split).paths)

    def test_a_class_of_trains(self, tmp_path):
        assert ImageFolder(path=folder(tmp_path, ("bus", "car", "train"))).classes == ["bus", "car", "train"]

    def test_splits_inside_the_classes_are_refused(self, tmp_path):
        for name in ("cat", "dog"):
            folder(tmp_path / name, ("train", "test"))
        with pytest.raises(ValueError, match=r"the folders test, … lie in the class folders \(dog/test, …\)"):
            ImageFolder(path=tmp_path)

    def test_images_directly_in_split_folders_are_refused(self, tmp_path):
        folder(tmp_path, ("train", "test"))
        with pytest.raises(ValueError, match=r"train: no class folders in it. Images lie in it directly"):
            ImageFolder(path=tmp_path)

    def test_classes_that_val_lacks_are_reported(self, tmp_path):
        folder(tmp_path / "train", ("a", "b", "c"))
        folder(tmp_path / "val", ("a",))
        data = ImageDataModule(source=ImageFolder(path=tmp_path))
        data.images("train")
        assert data.notes == []
        data.images("val")
        assert data.notes == ["WARNING: val has no images of b, c"]

    def test_all_classes_that_train_lacks_are_named(self, tmp_path):
        folder(tmp_path / "train", ("a", "b"))
        folder(tmp_path / "val", ("x", "y"))
        with pytest.raises(ValueError, match=r"class 'x' of val; .*class 'y' of val are not among .* train \(a, b\)"):
            ImageFolder(path=tmp_path)


class TestOneClass:
    @pytest.mark.parametrize("wrapper", ["photos", "photos/more"])
    def test_a_wrapper_too_many(self, tmp_path, wrapper):
        folder(tmp_path / wrapper)
        with pytest.raises(ValueError, match=rf"only one class folder, 'photos'.*type path={tmp_path}/{wrapper}$"):
            ImageFolder(path=tmp_path)

    def test_a_wrapper_around_split_folders(self, tmp_path):
        for split in ("train", "test"):
            folder(tmp_path / "photos" / split)
        with pytest.raises(ValueError, match=rf"type path={tmp_path}/photos$"):
            ImageFolder(path=tmp_path)

    def test_a_wrapper_in_the_split_folders(self, tmp_path):
        folder(tmp_path / "train" / "train")
        folder(tmp_path / "test" / "test")
        with pytest.raises(ValueError, match=rf"move what {tmp_path}/train/train holds into {tmp_path}/train$"):
            ImageFolder(path=tmp_path)

    def test_one_class(self, tmp_path):
        with pytest.raises(ValueError, match=r"only one class folder, 'cat'; a classifier needs two or more classes.$"):
            ImageFolder(path=folder(tmp_path, ("cat",)))

    def test_one_label_in_a_table(self, tmp_path):
        folder(tmp_path, ("cat",))
        (tmp_path / "list.csv").write_text("path,label\ncat/0.png,cat\ncat/1.png,cat\n")
        with pytest.raises(ValueError, match=r"list\.csv: only one class, 'cat'"):
            CsvTable(path=tmp_path / "list.csv")


class TestOneCopy:
    def test_links_to_folders_above(self, tmp_path):
        folder(tmp_path, count=6)
        for name in ("cat", "dog"):
            os.symlink("..", tmp_path / name / "up")
        os.symlink(tmp_path / "cat", tmp_path / "cat" / "again")
        os.symlink(tmp_path, tmp_path / "whole")
        source = ImageFolder(path=tmp_path)
        assert sum(lengths(source).values()) == 12
        assert source.classes == ["cat", "dog"]
        assert source.left_out.counts == {AGAIN: 4}
        assert len(find_images([tmp_path])) == 12

    def test_links_to_files_and_hard_links(self, tmp_path):
        folder(tmp_path, count=6)
        os.symlink(tmp_path / "cat/0.png", tmp_path / "cat/soft.png")
        os.link(tmp_path / "cat/1.png", tmp_path / "cat/hard.png")
        source = ImageFolder(path=tmp_path)
        assert (sum(lengths(source).values()), source.left_out.counts) == (12, {AGAIN: 2})
        assert len(find_images([tmp_path, f"{tmp_path}/cat/../cat/0.png", f"{tmp_path}/*/*.png"])) == 12

    def test_one_file_in_two_classes(self, tmp_path):
        folder(tmp_path)
        os.symlink(tmp_path / "cat/0.png", tmp_path / "dog/cat.png")
        with pytest.raises(ValueError, match=r"dog/cat\.png is 'dog', but .*cat/0\.png, the same file, is 'cat'\.$"):
            ImageFolder(path=tmp_path)

    def test_val_is_train(self, tmp_path):
        folder(tmp_path / "train")
        os.symlink("train", tmp_path / "val")
        with pytest.raises(
            ValueError, match=r"(?s)8 images are in two classes or splits:.*is 'cat' in val, but .* in train"
        ):
            ImageFolder(path=tmp_path)

    def test_other_spellings_in_a_table(self, tmp_path):
        folder(tmp_path)
        rows = [
            "cat/0.png,a",
            "./cat/0.png,a",
            "cat//0.png,a",
            "dog/../cat/0.png,a",
            f"{tmp_path}/cat/0.png,a",
            "cat/1.png,b",
        ]
        (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
        source = CsvTable(path=tmp_path / "list.csv", val_fraction=0, test_fraction=0)
        assert (lengths(source), source.left_out.counts) == ({"train": 2}, {AGAIN: 4})

    def test_two_labels_for_one_image(self, tmp_path):
        folder(tmp_path)
        (tmp_path / "list.csv").write_text("path,label\ncat/0.png,a\n./cat/0.png,b\n")
        with pytest.raises(
            ValueError, match=r"list\.csv:3 \(.*\) is 'b', but .*list\.csv:2 \(.*\), the same file, is 'a'"
        ):
            CsvTable(path=tmp_path / "list.csv")


class TestLeftOut:
    def test_everything_is_used_or_counted_by_its_reason(self, tmp_path):
        folder(tmp_path)
        content = (tmp_path / "cat/0.png").read_bytes()
        for name in ("a.jfif", "b.JPE", "c.PNG"):
            (tmp_path / "cat" / name).write_bytes(content)
        for name in ("download", "d.jpg_large", "e.7"):
            (tmp_path / "cat" / name).write_bytes(content)
        for name in (".DS_Store", "f.heic", "Thumbs.db", "notes.txt", "other", "empty", "g.txt"):
            (tmp_path / "cat" / name).write_bytes(b"" if name == "empty" else b"something")
        (tmp_path / ".hidden").mkdir()
        image(tmp_path / "loose.png")
        os.mkfifo(tmp_path / "cat/pipe.png")
        source = ImageFolder(path=tmp_path)
        assert sum(lengths(source).values()) == 8 + 3 + 3
        assert source.left_out.counts == {
            HIDDEN: 2,
            LOOSE: 1,
            BY_CONTENT: 3,
            ".heic files, which Pillow does not read: convert them to JPEG": 1,
            ".db files": 1,
            ".txt files": 2,
            "files without ending that are no images": 2,
            "devices, pipes and sockets": 1,
        }
        left, used = source.left_out.lines()
        assert left.startswith("left out: ")
        assert f"2 .txt files ({tmp_path}/cat/g.txt, {tmp_path}/cat/notes.txt)" in left
        assert used.startswith("used by their content: 3 images under other endings (")

    def test_folders_and_images_beside_the_split_folders(self, tmp_path):
        folder(tmp_path / "train")
        folder(tmp_path / "unlabelled", ("x",))
        image(tmp_path / "loose.png")
        assert ImageFolder(path=tmp_path).left_out.counts == {ELSEWHERE: 1, LOOSE: 1}

    def test_folders_of_systems(self, tmp_path):
        folder(tmp_path)
        image(tmp_path / "cat/@eaDir/THUMB.jpg")
        (tmp_path / "__MACOSX").mkdir()
        source = ImageFolder(path=tmp_path)
        assert source.classes == ["cat", "dog"]
        assert sum(lengths(source).values()) == 8
        assert source.left_out.counts == {HIDDEN: 2}

    def test_the_same_folders_in_all_class_folders_get_a_sentence(self, tmp_path):
        for name in ("fold1", "fold2"):
            folder(tmp_path / name)
        [note] = ImageFolder(path=tmp_path).notes
        assert note.startswith("WARNING: all class folders (fold1, fold2, …) hold the same folders (cat, dog, …)")

    def test_a_folder_that_cannot_be_read(self, tmp_path, monkeypatch):
        folder(tmp_path)
        image(tmp_path / "cat/locked/1.png")
        scandir = os.scandir

        def refusing(path="."):
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        with pytest.raises(ValueError, match=r"cat/locked: this folder cannot be read \(Permission denied\)"):
            ImageFolder(path=tmp_path)
        left_out = LeftOut()
        assert len(find_images([tmp_path], left_out=left_out)) == 8
        assert left_out.counts == {UNREADABLE: 1}


class TestUnicode:
    def test_one_class_in_two_forms(self, tmp_path):
        folder(tmp_path / "train", (NFD, "tea"))
        folder(tmp_path / "val", (NFC, "tea"))
        source = ImageFolder(path=tmp_path)
        assert source.classes == [NFC, "tea"]
        assert source.dataset("val").labels == [0] * 4 + [1] * 4

    def test_both_forms_side_by_side(self, tmp_path):
        source = ImageFolder(path=folder(tmp_path, (NFC, NFD, "tea")), val_fraction=0, test_fraction=0)
        assert source.dataset("train").labels == [0] * 8 + [1] * 4

    def test_labels_and_paths_of_a_table(self, tmp_path):
        folder(tmp_path, (NFD, "tea"))
        rows = [f"{NFC}/0.png,{NFC}", f"{NFD}/1.png,{NFD}", "tea/0.png,tea"]
        (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
        source = CsvTable(path=tmp_path / "list.csv", val_fraction=0, test_fraction=0)
        assert (source.classes, source.dataset("train").labels) == ([NFC, "tea"], [0, 0, 1])

    def test_case_alone(self, tmp_path):
        notes = ImageFolder(path=folder(tmp_path, ("Cat", "cat", "dog"))).notes
        assert notes == ["WARNING: classes that differ in upper and lower case alone: 'Cat' and 'cat'"]


class TestRareClasses:
    def test_all_are_named(self, tmp_path):
        folder(folder(tmp_path), ("x", "y"), 1)
        folder(tmp_path, ("z",), 2)
        with pytest.raises(
            ValueError,
            match=r"Classes 'x' has 1 image, 'y' has 1 image, 'z' has 2 images, too few .*rare_classes=train",
        ):
            ImageFolder(path=tmp_path)

    def test_they_are_kept_in_train(self, tmp_path):
        folder(folder(tmp_path), ("x",), 2)
        source = ImageFolder(path=tmp_path, rare_classes="train")
        assert source.dataset("train").labels.count(2) == 2
        assert source.dataset("val").labels.count(2) == 0
        assert source.notes == []

    def test_every_source_that_splits_files_has_the_key(self):
        sources = RUN_GROUPS["data"].by_name
        assert [name for name, schema in sources.items() if "rare_classes" in schema.model_fields] == [
            "image_folder",
            "csv",
            "torchvision",
        ]


class TestWhole:
    """An evaluation of one's own folder takes all of it."""

    def test_a_folder(self, tmp_path):
        assert lengths(ImageFolder(path=folder(tmp_path), whole_as="test")) == {"test": 8}

    def test_test_alone(self, tmp_path):
        folder(tmp_path / "test")
        assert lengths(ImageFolder(path=tmp_path, whole_as="test")) == {"test": 8}
        with pytest.raises(ValueError, match="has test but no train folder"):
            ImageFolder(path=tmp_path, whole_as="val")

    @pytest.mark.parametrize("split", ["", ",test"])
    def test_a_table(self, tmp_path, split):
        folder(tmp_path)
        header = "path,label,split" if split else "path,label"
        (tmp_path / "list.csv").write_text(f"{header}\ncat/0.png,a{split}\ndog/0.png,b{split}\n")
        assert lengths(CsvTable(path=tmp_path / "list.csv", whole_as="test")) == {"test": 2}


class TestTables:
    def write(self, tmp_path, text, encoding="utf-8"):
        folder(tmp_path)
        (tmp_path / "list.csv").write_bytes(text.encode(encoding))
        return tmp_path / "list.csv"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    def test_encodings_and_separators(self, tmp_path, encoding, separator):
        rows = [" Path ,LABEL,note", "cat/0.png,chät,x", '"dog/0.png","dog",""', "", ",,"]
        path = self.write(tmp_path, "\r\n".join(rows).replace(",", separator), encoding)
        assert CsvTable(path=path, val_fraction=0, test_fraction=0).classes == ["chät", "dog"]

    def test_another_encoding_is_refused_with_the_way_out(self, tmp_path):
        path = self.write(tmp_path, "path,label\ncat/0.png,chät\n", "cp1252")
        with pytest.raises(
            ValueError, match=r"list\.csv:2: is not in UTF-8 \(byte 0xe4\).*iconv -f CP1252 -t UTF-8 list\.csv"
        ):
            CsvTable(path=path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"PK\x03\x04", "a workbook or another ZIP file"),
            ("path,label\n".encode("utf-16-le"), "NUL bytes: no text, or UTF-16 without a byte-order mark"),
            (b"cat/0.png,cat\n", "no column 'path'; the columns are cat/0.png, cat. The first line names the columns"),
            (b"path,label,label\n", "a column's name appears twice"),
            (b"path,label\ncat/0.png,a,b\n", "2: more values than columns"),
            (b"\xd0\xcf\x11\xe0\x00\xb1", "NUL bytes: no text"),
            (b"\x1f\x8b\x08\x08", "is compressed"),
            (b"path,label\n" + b"x" * 5000 + b",cat\n", "2: no such image"),
            (b"path,label\nhttps://x.org/0.png,cat\n", "2: 'https://x.org/0.png' is an address"),
            (b'path,label\n0.png,"cat\n1.png,dog\n', "3: a value goes over several lines .*left open"),
        ],
    )
    def test_what_else_is_no_table(self, tmp_path, content, message):
        (tmp_path / "list.csv").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            CsvTable(path=tmp_path / "list.csv")

    def test_a_row_may_end_with_a_separator(self, tmp_path):
        path = self.write(tmp_path, "path,label\ncat/0.png,cat,\ndog/0.png,dog,,\n,,,\n")
        assert len(CsvTable(path=path, val_fraction=0, test_fraction=0).dataset("train")) == 2

    def test_missing_images_are_skipped_like_broken_ones(self, tmp_path):
        path = self.write(tmp_path, "path,label\ncat/0.png,cat\ncat/no.png,cat\ndog/0.png,dog\n")
        source = CsvTable(path=path, val_fraction=0, test_fraction=0, on_bad_image="skip")
        assert len(source.dataset("train")) == 2
        assert source.notes == [f"WARNING: left out: {tmp_path}/cat/no.png: no such file"]

    def test_a_folder_for_a_table_and_the_reverse(self, tmp_path):
        path = self.write(tmp_path, "path,label\n")
        with pytest.raises(FileNotFoundError, match="It is a folder: data=image_folder"):
            CsvTable(path=tmp_path)
        with pytest.raises(FileNotFoundError, match="It is a file: data=csv"):
            ImageFolder(path=path)

    def test_paths_written_by_windows(self, tmp_path):
        path = self.write(tmp_path, "path,label\ncat\\0.png,cat\ndog\\0.png,dog\n")
        source = CsvTable(path=path, val_fraction=0, test_fraction=0)
        assert source.dataset("train").paths == [f"{tmp_path}/cat/0.png", f"{tmp_path}/dog/0.png"]

    def test_an_open_quotation_mark(self, tmp_path):
        path = self.write(tmp_path, 'path,label\n"cat/0.png,cat\n' + "dog/0.png,dog\n" * 10_000)
        with pytest.raises(ValueError, match=r"field larger .*Is a quotation mark left open before it\?"):
            CsvTable(path=path)

    def test_all_missing_images_are_named(self, tmp_path):
        rows = "".join(f"no/{number}.png,a\n" for number in range(12))
        with pytest.raises(ValueError, match=r"12 lines of .* cannot be used") as caught:
            CsvTable(path=self.write(tmp_path, f"path,label\n{rows}"))
        assert str(caught.value).count("no such image") == 10
        assert str(caught.value).endswith("… and 2 more")

    @pytest.mark.parametrize(
        ("labels", "note"),
        [
            (["a", "b"], None),
            (["0.5", "1.25"], "labels are numbers: each of the 2 different values (0.5, 1.25) is a class of its own"),
            (["1", "2"], "labels are numbers: each of the 2 different values (1, 2) is a class of its own"),
            (["cat|dog", "dog"], "WARNING: 1 of 2 labels look like lists (cat|dog)"),
            (['"[1, 0]"', '"[0, 1]"'], "WARNING: 2 of 2 labels look like lists ([0, 1], [1, 0])"),
        ],
    )
    def test_labels_that_may_mean_something_else_get_a_sentence(self, tmp_path, labels, note):
        path = self.write(tmp_path, f"path,label\ncat/0.png,{labels[0]}\ndog/0.png,{labels[1]}\n")
        notes = CsvTable(path=path, val_fraction=0, test_fraction=0).notes
        assert [text[: len(note or "")] for text in notes] == ([note] if note else [])
