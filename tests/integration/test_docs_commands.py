"""The commands of README.md and docs/, as typed; trainings are cut short, and RUN stands for a run."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.conftest import FROSTLINE, ROOT, SHORT, facts, only_run
from tests.pages import PAGES, README, blocks, commands
from tests.preloaded import run as run_preloaded
from tests.test_docs import IN_ORDER, PROGRAMS

RUNS = ROOT / "docs/runs.md"
# Each once, in the order of the pages: some use what an earlier one wrote.
COMMANDS = list(
    dict.fromkeys(line for page in PAGES if page != IN_ORDER for line in commands(page) if line.startswith(PROGRAMS))
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands find a run, photos, a table of labels and a policy."""
    folder = tmp_path_factory.mktemp("home")
    lines = ["path,label"]
    for index in range(80):
        name = ("ice", "fire")[index % 2]
        photo = folder / "photos" / name / f"{index}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60 + index, 50), (index, 40, 255 - index) if index % 2 else (255 - index, 40, 0)).save(photo)
        lines.append(f"photos/{name}/{index}.jpg,{name}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "docs/figures").mkdir(parents=True)
    (folder / "my_policy.yaml").write_text("train: [head]\n")
    (folder / "examples").symlink_to(ROOT / "examples")
    output = tmp_path_factory.mktemp("output")
    # 80 steps: a network that does no better than chance has no temperature for `frostline calibrate`.
    words = [*FROSTLINE, "train", *SHORT, "trainer.limit_train_batches=40", "data.batch_size=8"]
    words.append("callbacks.pictures=true")
    done = run_preloaded(words, cwd=folder, output=output, env={**os.environ, "RUN_ID": "RUN"})
    assert done.returncode == 0, done.stderr
    return folder


def as_run(command: str) -> list[str]:
    """The command with this environment's programs and, where it trains, cut short."""
    words = shlex.split(command)
    program = {
        "python": [sys.executable],
        "frostline": FROSTLINE,
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    }[words[0]]
    words = [*program, *(str(ROOT / "train.py") if word == "train.py" else word for word in words[1:])]
    if any(word.startswith("resume_from=") for word in words):
        return words  # the config is in the checkpoint
    starts = str(ROOT / "train.py") in words or words[:4] == [*FROSTLINE, "train"]
    trains = starts and not {"--cfg", "--help"} & set(words)
    if not trains:
        return words
    typed = {word.partition("=")[0] for word in words}
    short = [word for word in SHORT if word.partition("=")[0] not in typed]
    if any(word.startswith("experiment=") for word in words):
        limits = (f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test"))
        return [*words, *limits, "model.weights=none", "callbacks.progress_bar=false"]
    if "data.batch_size" not in typed:
        short.append("data.batch_size=8")
    if "data.classes" in typed:  # the synthetic source: fewer images
        short.append("data.length=160")
    return [*words, *short]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, home: Path, tmp_path: Path) -> None:
    done = run_preloaded(as_run(command), cwd=home, output=tmp_path, seconds=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_python_example_writes_a_checkpoint_that_predict_reads(home: Path, tmp_path: Path) -> None:
    [lines] = [block.text for block in blocks(README, "python") if "ImageDataModule" in block.text]
    lines = lines.replace("max_epochs=1", "max_steps=2, limit_val_batches=1")
    done = subprocess.run(
        [sys.executable, "-c", lines + "\nprint('steps', classifier.trainer.global_step)"], cwd=tmp_path,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "steps 2" in done.stdout
    command = "frostline predict checkpoint=digits.ckpt inputs=photos"
    assert f"`{command}`" in README.read_text()
    (tmp_path / "photos").symlink_to(home / "photos")
    done = subprocess.run(as_run(command), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "80 images predicted: " in done.stdout
    table = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert {row["class"] for row in table} <= {str(digit) for digit in range(10)}


@pytest.mark.slow
def test_the_weights_of_a_run_load_into_plain_torchvision_as_shown(home: Path) -> None:
    [lines] = [block.text for block in blocks(RUNS, "python")]
    done = subprocess.run([sys.executable, "-c", lines], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_run_folder_table_is_what_a_run_leaves(home: Path) -> None:
    named = set(re.findall(r"^\| `([^|]*)` \|", RUNS.read_text(), re.MULTILINE))
    files = {name.strip("` ") for row in named for name in row.split(",")}
    assert {"config.yaml", "overrides.yaml", "metrics.csv", "facts.json", "train.log"} <= files
    assert all((home / "runs/RUN" / name).exists() for name in files - {"last.ckpt"})
    assert facts(home / "runs/RUN")["freezing"]["held"] is True  # type: ignore[index]
    assert only_run(home).name == "RUN"


@pytest.mark.slow
def test_the_page_on_your_photos_runs_from_beginning_to_end(tmp_path: Path) -> None:
    [script] = blocks(IN_ORDER, "python")
    (tmp_path / "make_photos.py").write_text(script.text)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands(IN_ORDER):
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr}"
    for file in ("seen.png", "pictures/mistakes.png", "explanations/0.png", "exported/model.onnx", "my_policy.yaml"):
        assert (tmp_path / file).stat().st_size > 0, file
    photos = [path for path in (tmp_path / "photos").rglob("*") if path.is_file()]
    assert {path.suffix for path in photos} == {".jpg", ".png", ".webp"}
    assert len(photos) == 400
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 40
    # Ten classes: chance is 0.1.
    assert facts(tmp_path / "runs/first")["results"]["test/accuracy"] > 0.5  # type: ignore[index]


@pytest.mark.slow
def test_the_readmes_picture_is_what_the_graph_command_draws(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts/draw_frost_line.py"), str(tmp_path / "drawn.svg")]
    subprocess.run(script, check=True, capture_output=True)
    assert (tmp_path / "drawn.svg").read_text() == (ROOT / "docs/figures/frost_line.svg").read_text()
