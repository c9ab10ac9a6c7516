"""Folders as people have them, from the command line: what is used, what is left out, and where it is reported."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import FROSTLINE, SHORT, facts, only_run


def images(folder, count, *, seed):
    for place, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([seed, place, number]).integers(0, 256, (36, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.mark.slow
def test_a_run_says_what_it_uses_and_an_evaluation_takes_a_whole_folder(cli, tmp_path):
    photos, hold = tmp_path / "photos", tmp_path / "hold"
    images(photos / "Training", 6, seed=0)
    images(photos / "test_set", 2, seed=1)
    images(hold, 5, seed=2)
    cats = photos / "Training" / "cat"
    (cats / "saved.jfif").write_bytes((cats / "0.png").read_bytes())
    os.symlink("..", cats / "up")
    (cats / "notes.txt").write_text("no image")
    broken = os.fsencode(cats) + b"/bad\xe9.png"
    with open(broken, "wb") as file:
        file.write(b"no image")
    words = (
        *SHORT,
        "data=image_folder",
        f"data.path={photos}",
        "data.batch_size=4",
        "device=cpu",
        "trainer.max_epochs=1",
    )

    refused = cli(*FROSTLINE, "train", *words, f"output_dir={tmp_path}/refused")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stdout + refused.stderr
    assert r"Training/cat/bad\xe9.png: no image, or none of the formats" in refused.stderr
    assert "data.on_bad_image=skip" in refused.stderr

    trained = cli(
        *FROSTLINE, "train", *words, "data.on_bad_image=skip", "data.test_fraction=0.2", f"output_dir={tmp_path}/runs"
    )
    assert trained.returncode == 0, trained.stderr
    found = facts(only_run(tmp_path))["data"]
    # 13 in Training; of 7 cats and 6 dogs one each is for validation.
    assert found["images"] == {"train": 11, "val": 2, "test": 4}
    assert found["left_out"] == {
        "the same file or folder under another name": 1,
        ".txt files": 1,
        "images that cannot be read": 1,
    }
    assert "1 the same file or folder under another name" in trained.stdout

    checkpoint = f"checkpoint={only_run(tmp_path)}/checkpoints/last.ckpt"
    evaluated = cli(
        *FROSTLINE, "evaluate", checkpoint, "data=image_folder", f"data.path={hold}", "device=cpu", "output=e.json"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "data: 10 test images of 10" in evaluated.stdout
    assert sum(row["images"] for row in json.loads((tmp_path / "e.json").read_text())["per_class"]) == 10
