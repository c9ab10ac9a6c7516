"""The pass that computes what a store does not have."""

import logging
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from frostline.data.synthetic import Synthetic
from frostline.data.transforms import evaluation_transform
from frostline.prefix import extraction
from frostline.prefix.dataset import FeatureDataset
from frostline.prefix.extraction import extract
from frostline.prefix.store import FeatureStore, Rows, open_store, sole_writer
from frostline.progress_line import Part, ProgressLine, fitted

OPTIONS = {"num_workers": 0, "patience": 0}


def dataset() -> FeatureDataset:
    images = Synthetic(length=10, classes=3, image_size=16).dataset("train")
    assert images is not None
    return FeatureDataset(images, transform=evaluation_transform(image_size=16))


def open_one(folder: Path) -> FeatureStore:
    rows = Rows(count=10, shape=(3,), dtype="float32", strides=(1,))
    return open_store(folder, key="k", rows=rows, limit_bytes=10**9, about={})


def mean(images: Tensor) -> Tensor:
    return images.float().mean(dim=(2, 3))


def test_it_computes_the_rows_that_it_is_given_and_no_others(tmp_path: Path) -> None:
    store, images, seen = open_one(tmp_path), dataset(), []

    def compute(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return mean(batch)

    rows = np.array([1, 2, 5, 6, 9])
    assert extract(store, rows, dataset=images, compute=compute, batch_size=2, loading=OPTIONS, title="x") == 5
    assert seen == [2, 2, 1]
    features, found = store.read(np.arange(10))
    assert np.flatnonzero(found).tolist() == rows.tolist()
    assert torch.equal(features, mean(images.decoded(rows)))
    assert store.missing(np.arange(10), check=True).tolist() == [0, 3, 4, 7, 8]


def test_corrupt_rows_are_missing_to_a_check_only(tmp_path: Path) -> None:
    store, rows = open_one(tmp_path), np.arange(10)
    extract(store, rows, dataset=dataset(), compute=mean, batch_size=4, loading=OPTIONS, title="x")
    with store.path.open("r+b") as file:
        file.seek(store.file.begins[7])
        file.write(b"\xff\xff")
    assert store.missing(rows, check=True).tolist() == [7]
    assert store.missing(rows, check=False).tolist() == []


class Recorded(ProgressLine):
    """A line of progress that is shown nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.is_drawn = True
        self.shown: list[str] = []

    def show(self, *parts: Part, at_once: bool = False) -> None:
        self.shown.append(fitted(list(parts), width=100))


def test_a_line_of_progress_counts_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    line = Recorded()
    extract(
        open_one(tmp_path), np.arange(10), dataset=dataset(), compute=mean, batch_size=4, loading=OPTIONS,
        title="features of the train images", line=line,
    )  # fmt: skip
    for text, done in zip(line.shown, (4, 8, 10), strict=True):
        assert re.fullmatch(rf"features of the train images · {done}/10 · [\d.,]+ img/s · 0:00 left", text)
    [logged] = [record.getMessage() for record in caplog.records if record.name == "frostline.features"]
    assert re.fullmatch(r"features of the train images: 10 in 0\.\d s, [\d.,]+ img/s", logged)


def test_without_a_bar_lines_say_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(extraction, "REPORT_INTERVAL", 0.0)
    caplog.set_level(logging.INFO)
    extract(
        open_one(tmp_path), np.arange(10), dataset=dataset(), compute=mean, batch_size=4, loading=OPTIONS, title="train"
    )
    lines = [record.getMessage() for record in caplog.records if record.name == "frostline.features"]
    assert [line.split(" · ")[:2] for line in lines[:2]] == [["train", "4/10"], ["train", "8/10"]]
    assert lines[0].endswith(" img/s · 0:00 left")
    assert lines[-1].startswith("train: 10 in ")


def test_one_run_writes_a_store_at_a_time(tmp_path: Path) -> None:
    store, order = open_one(tmp_path), []

    def second() -> None:
        with sole_writer(store, limit=None):
            order.append("second begins")

    with sole_writer(store, limit=None):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        order.append("first ends")
    other.join(timeout=30)
    assert order == ["first ends", "second begins"]
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["k.features"]


def test_after_the_limit_a_run_no_longer_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_one(tmp_path)
    with sole_writer(store, limit=None), sole_writer(store, limit=0.2):
        assert "Not waiting for another run's features" in caplog.text
