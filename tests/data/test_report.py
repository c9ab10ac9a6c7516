"""The report on a run's images before training."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.commands.main import main
from frostline.config.groups import RUN_GROUPS
from frostline.data.datamodule import ImageDataModule
from frostline.data.digits import Digits
from frostline.data.image_folder import ImageFolder
from frostline.data.random_noise import RandomNoise
from frostline.data.report import FEW_IN_CLASS, DataReport, ImageFile, duplicates
from frostline.data.streaming import Streaming
from frostline.data.synthetic import Synthetic
from frostline.data.torchvision_source import TorchvisionSource

NO_FILES = "image sizes and exact duplicates: not looked for ({} lists no files)"


def photos(root: Path) -> Path:
    """Splits of three classes with one fault of each kind."""
    counts = {"train": (12, FEW_IN_CLASS, 3), "val": (4, 3, 0), "test": (2, 2, 1)}
    draw = np.random.default_rng(0)
    for split, of_classes in counts.items():
        for name, count in zip(("cup", "lamp", "shoe"), of_classes, strict=True):
            for number in range(count):
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                size = (70, 65, 3) if path.match("test/shoe/0.png") else (30, 40, 3)
                Image.fromarray(draw.integers(0, 256, size, np.uint8)).save(path)
    (root / "train/lamp/again.png").write_bytes((root / "val/cup/0.png").read_bytes())
    (root / "train/cup/twice.png").write_bytes((root / "train/cup/0.png").read_bytes())
    (root / "train/cup/notes.txt").write_text("no image")
    (root / "train/cup/new.heic").write_bytes(b"no image")
    (root / "test/loose.png").write_bytes((root / "test/cup/0.png").read_bytes())
    return root


def test_a_training_reports_every_fault_of_a_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = photos(tmp_path / "photos")
    words = ("data=image_folder", f"data.path={root}", "data.image_size=32", "data.batch_size=13", "model.weights=none")
    options = ("callbacks.progress_bar=false", "callbacks.pictures=false", "test=false", "trainer.precision=32-true")
    main("train", [*words, *options, "freeze=none", "trainer.max_epochs=1", "output_dir=runs"])
    [run] = (tmp_path / "runs").iterdir()
    out = capsys.readouterr().out
    expected = [
        "data: 27 train, 7 val, 5 test images of 3 classes, 32 px",
        "split: as given: train, val, test",
        "training images per class: 3 (shoe) to 13 (cup)",
        "image sizes: 40×30 to 65×70 px, width × height",
        f"left out: 1 images in no class folder ({root}/test/loose.png); 1 .heic files, which Pillow does not read: "
        f"convert them to JPEG ({root}/train/cup/new.heic); 1 .txt files ({root}/train/cup/notes.txt)",
        "WARNING: val has no images of shoe",
        f"WARNING: fewer than {FEW_IN_CLASS} training images: shoe (3). Add images, or leave such classes out",
        "WARNING: 1 image lies in two or more splits, so that results look better than they are: "
        f"{root}/train/lamp/again.png (train, lamp) = {root}/val/cup/0.png (val, cup). Remove the copies",
        "WARNING: 1 image lies in two or more classes, so that one label of each is wrong: "
        f"{root}/train/lamp/again.png (train, lamp) = {root}/val/cup/0.png (val, cup). Remove the copies",
    ]
    assert "\n".join([*expected, f"complete report on the data: {run}/data.json"]) in out
    content = json.loads((run / "data.json").read_text())
    assert content == {
        "summary": expected,
        "classes": {
            "cup": {"train": 13, "val": 4, "test": 2},
            "lamp": {"train": 11, "val": 3, "test": 2},
            "shoe": {"train": 3, "val": 0, "test": 1},
        },
        "sizes": {"16 to 31 px": {"train": 27, "val": 7, "test": 4}, "64 to 127 px": {"test": 1}},
        "duplicates": [
            [f"{root}/train/cup/0.png (train, cup)", f"{root}/train/cup/twice.png (train, cup)"],
            [f"{root}/train/lamp/again.png (train, lamp)", f"{root}/val/cup/0.png (val, cup)"],
        ],
        "passed_over": {
            "images in no class folder": [f"{root}/test/loose.png"],
            ".heic files, which Pillow does not read: convert them to JPEG": [f"{root}/train/cup/new.heic"],
            ".txt files": [f"{root}/train/cup/notes.txt"],
        },
    }

    main("show", list(words))
    assert "\n".join([*expected, f"complete report on the data: {tmp_path}/seen.json"]) in capsys.readouterr().out
    assert json.loads((tmp_path / "seen.json").read_text()) == content

    main("train", [f"resume_from={run}", "trainer.max_epochs=2"])
    out = capsys.readouterr().out
    assert expected[0] in out
    assert not any(line in out for line in expected[1:])


def test_every_source_has_a_report(tmp_path: Path, shards: Path) -> None:
    """Those that list files are tested by their files; torchvision's may."""
    fractions = "of each class 10 % for val, 20 % for test (val_fraction=0.1, test_fraction=0.2, split_seed=0)"
    sources = {
        Digits(): (fractions, "training images per class: 122 (8) to 128 (1)"),
        Synthetic(length=40, val_length=10): ("as Synthetic gives it", "training images per class: 4"),
        RandomNoise(length=3, classes=5): (
            "as RandomNoise gives it",
            "images per class: not counted, as labels are soft",
        ),
        Streaming(path=str(shards)): ("as Streaming gives it", "training images per class: 42 (fog) to 43 (fire)"),
        TorchvisionSource(dataset="FakeData", options={"size": 60, "num_classes": 2}): (
            fractions,
            "training images per class: 19 (1) to 23 (0)",
        ),
    }
    tested = {"image_folder", "csv", "fashion_mnist"}
    assert RUN_GROUPS["data"].by_name.keys() - tested == {"digits", "synthetic", "random", "streaming", "torchvision"}
    for source, (split, classes) in sources.items():
        report = DataReport(ImageDataModule(source=source))
        assert report.lines[1:4] == [f"split: {split}", classes, NO_FILES.format(type(source).__name__)]
        assert "duplicates" not in report.content


def test_more_files_than_the_limit_are_not_looked_at(tmp_path: Path) -> None:
    data = ImageDataModule(source=ImageFolder(path=photos(tmp_path)))
    report = DataReport(data, most_files=38)
    line = "image sizes and exact duplicates: not looked for (`frostline show` looks at all 39 files)"
    assert line in report.lines
    assert "sizes" not in report.content
    assert "sizes" in DataReport(data, most_files=39).content


def test_duplicates_are_files_with_the_same_bytes(tmp_path: Path) -> None:
    contents = {"a": b"x" * 5000 + b"1", "b": b"x" * 5000 + b"2", "c": b"x" * 5000 + b"1", "d": b"x", "e": b"y" * 5001}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = [ImageFile(str(tmp_path / name), "train", name) for name in (*contents, "missing")]
    assert [[Path(file.path).name for file in group] for group in duplicates(files)] == [["a", "c"]]
