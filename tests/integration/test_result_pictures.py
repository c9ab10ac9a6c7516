"""Pictures of a run's results: by the command, over two processes, read back from the loggers, and over a resume."""

import csv
import json
from xml.etree import ElementTree

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.conftest import FROSTLINE, SHORT, facts

PICTURES = ["calibration.svg", "confusion.svg", "curves.svg", "mistakes.png", "seen.png"]
# Names of class folders, as hostile as a file system lets them be.
HOSTILE = ["<script>alert(1)", "w" * 200, "\u202eevil", "a\nb"]


@pytest.fixture
def photos(tmp_path):
    for index in range(64):
        folder = tmp_path / "photos" / HOSTILE[index % 4]
        folder.mkdir(parents=True, exist_ok=True)
        colour = (60 * (index % 4), 3 * index, 255 - 3 * index)
        Image.new("RGB", (40 + index, 40), colour).save(folder / f"{index}.png")
    return tmp_path / "photos"


def words_of(svg):
    return list(ElementTree.parse(svg).getroot().itertext())


def test_a_run_of_two_processes_draws_its_results_also_for_the_loggers_and_over_a_resume(cli, tmp_path, photos):
    words = ("data=image_folder", f"data.path={photos}", "data.batch_size=8", "freeze=backbone", "trainer.max_epochs=1")
    words += ("device=cpu", "device.devices=2", "logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true")
    done = cli(*FROSTLINE, "train", *SHORT, *words, "callbacks.pictures=true", env={"RUN_ID": "drawn"})
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/drawn"
    assert sorted(path.name for path in (run / "pictures").iterdir()) == PICTURES
    _loggers_have_the_pictures(run)
    seen = [*words[:3], "data.image_size=32", "output=before.png"]
    done = cli(*FROSTLINE, "show", *seen)
    assert done.returncode == 0, done.stderr
    assert "\n8 training images: " in done.stdout
    assert (tmp_path / "before.png").read_bytes() == (run / "pictures/seen.png").read_bytes()
    first = _points(run)
    done = cli(*FROSTLINE, "train", f"resume_from={run}", "trainer.max_epochs=2", "logger=csv")
    assert done.returncode == 0, done.stderr
    assert _points(run)[: len(first)] == first
    assert len(_points(run)) == 2 * len(first)
    with Image.open(run / "pictures/mistakes.png") as mistakes:
        assert mistakes.width >= 800
    confusion = words_of(run / "pictures/confusion.svg")
    images, accuracy = sum(row["images"] for row in facts(run)["per_class"]), facts(run)["results"]["test/accuracy"]
    assert f"Confusion matrix, {images} test images, {100 * accuracy:.2f} % right" in confusion
    assert "<script>alert(1)" in confusion
    _are_drawn_again_by_evaluate(cli, tmp_path, run)


def _points(run):
    """(step, loss) of each logged training step, in the table that the curves are drawn of."""
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [(row["step"], row["train/loss"]) for row in rows if row["train/loss"]]


def _loggers_have_the_pictures(run):
    names = sorted(f"pictures/{name.partition('.')[0]}" for name in PICTURES)
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == names
    media = list(run.glob("wandb/offline-run-*/files/media/images/pictures/*.png"))
    assert sorted(f"pictures/{path.name.partition('_')[0]}" for path in media) == names
    for path in media:
        with Image.open(path) as picture:
            assert picture.width >= 800


def _are_drawn_again_by_evaluate(cli, tmp_path, run):
    done = cli(*FROSTLINE, "evaluate", f"checkpoint={run}", "pictures=out", "output=out.json")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [name for name in PICTURES if name != "seen.png"]
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    error = f"calibration error (ECE, 15 bins): {100 * results['test/calibration_error']:.2f} %"
    for folder in (out, run / "pictures"):
        assert any(error in text for text in words_of(folder / "calibration.svg"))
    assert (out / "curves.svg").read_text() == (run / "pictures/curves.svg").read_text()
