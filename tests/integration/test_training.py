"""One run from the command line, and everything that it leaves behind."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from PIL import Image

from tests.integration.conftest import FROSTLINE, SHORT, Cli, facts
from tests.preloaded import Started

FLOW = "callbacks.gradient_flow_every_n_steps=2"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a short training with a frozen backbone, by a Python that starts as a user's does."""
    folder = tmp_path_factory.mktemp("trained")
    words = [*FROSTLINE, "train", *SHORT, "freeze=to_layer3", "logger=[csv,tensorboard]", FLOW]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = (folder / "runs").iterdir()
    (run / "stdout.txt").write_text(done.stdout)
    (run / "stderr.txt").write_text(done.stderr)
    return run


def test_the_run_folder_holds_what_the_readme_says(run: Path) -> None:
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "overrides.yaml", "facts.json", "metrics.csv", "train.log"}
    assert expected <= names
    assert {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["freeze"]["name"] == "to_layer3"
    assert config["trainer"]["max_epochs"] == 2
    assert "freeze=to_layer3" in yaml.safe_load((run / "overrides.yaml").read_text())


def test_the_terminal_shows_what_trains_and_where_everything_lies(run: Path) -> None:
    output = (run / "stdout.txt").read_text()
    assert "8,398,858" in output  # layer4 8,393,728 + head 5,130
    assert "11,181,642" in output
    assert "test accuracy" in output
    assert str(run / "checkpoints" / "best.ckpt") in output
    assert (run / "stderr.txt").read_text() == ""


def test_the_facts_name_versions_machine_command_and_the_verdict_on_what_was_frozen(run: Path) -> None:
    known = facts(run)
    assert known["steps"] == 8
    assert known["seed"] == 0
    assert "freeze=to_layer3" in str(known["command"])
    assert known["versions"]["torch"] == torch.__version__.partition("+")[0]  # type: ignore[index]
    assert known["hardware"]["cores"] >= 1  # type: ignore[index]
    assert known["weights"]["source"] == "none (random)"  # type: ignore[index]
    assert known["freezing"]["held"] is True  # type: ignore[index]
    assert len(known["per_class"]) == 10  # type: ignore[arg-type]


def test_what_was_frozen_is_bit_identical_in_both_checkpoints_and_what_trained_moved(run: Path) -> None:
    best, last = (torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    torch.manual_seed(0)
    moved = {name for name, value in last["state_dict"].items() if not torch.equal(value, best["state_dict"][name])}
    if best["global_step"] == last["global_step"]:  # the best was the last: nothing to compare
        moved = {"layer4.0.conv1.weight"}
    assert moved
    assert all(name.startswith(("layer4.", "fc.")) for name in moved)
    # Statistics of a frozen batch norm never counted a batch.
    assert last["state_dict"]["layer3.1.bn2.num_batches_tracked"].item() == 0
    assert last["state_dict"]["layer4.1.bn2.num_batches_tracked"].item() == 8


def test_metrics_are_logged_under_stable_names(run: Path) -> None:
    with (run / "metrics.csv").open(newline="") as file:
        columns = set(next(csv.reader(file)))
    wanted = {"step", "epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/accuracy_top5"}
    assert wanted | {"val/f1", "val/calibration_error", "test/accuracy", "test/f1"} <= columns
    assert any(name.startswith("lr-SGD/layer4") for name in columns)
    # Measured where a gradient comes, and only there.
    assert {"gradients/layer4/norm", "gradients/head/update_ratio"} <= columns
    assert not any(name.startswith(("gradients/stem", "gradients/layer3")) for name in columns)
    assert {"freezing/phase", "freezing/lr/head"} <= columns


def test_the_weights_load_into_plain_torchvision(run: Path) -> None:
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    network = torchvision.models.resnet18(num_classes=10)
    network.load_state_dict(checkpoint["state_dict"])


def test_evaluate_from_the_checkpoint_alone_repeats_the_run_s_own_result(run: Path, cli: Cli, tmp_path: Path) -> None:
    best = run / "checkpoints/best.ckpt"
    done = cli(*FROSTLINE, "evaluate", f"checkpoint={best}", "precision=32-true", "output=result.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    own = facts(run)
    assert result["results"] == pytest.approx(own["results"])
    assert result["confusion"] == own["confusion"]
    assert "test accuracy" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_evaluate_refuses_data_of_other_classes(run: Path, cli: Cli) -> None:
    best = run / "checkpoints/best.ckpt"
    done = cli(*FROSTLINE, "evaluate", f"checkpoint={best}", "data=synthetic", "data.classes=3")
    assert done.returncode == 2
    assert "classes are not the checkpoint's" in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_writes_a_row_for_each_image_and_the_reason_for_a_broken_one(
    run: Path, cli: Cli, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    Image.new("RGB", (40, 30), (200, 30, 30)).save(photos / "a.jpg")
    Image.new("L", (20, 50), 90).save(photos / "more" / "b.PNG", format="png")
    (photos / "c.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    done = cli(*FROSTLINE, "predict", f"checkpoint={run}/checkpoints/best.ckpt", "inputs=photos", "top_k=3")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert set(rows) == {"a.jpg", "b.PNG", "c.jpg"}
    probabilities = [float(rows["a.jpg"][name]) for name in ("probability", "probability_2", "probability_3")]
    assert probabilities == sorted(probabilities, reverse=True)
    assert rows["a.jpg"]["error"] == ""
    assert rows["c.jpg"]["class"] == ""
    assert rows["c.jpg"]["error"] != ""
    assert "2 images predicted; 1 could not be read" in done.stdout


def test_any_checkpoint_starts_a_run_under_another_policy(run: Path, cli: Cli, tmp_path: Path) -> None:
    last = run / "checkpoints/last.ckpt"
    done = cli(*FROSTLINE, "train", *SHORT, "freeze=backbone", f"model.weights={last}", "test=false")
    assert done.returncode == 0, done.stderr
    assert "122 tensors loaded" in done.stdout
    [folder] = (tmp_path / "runs").iterdir()
    before = torch.load(last, weights_only=True)["state_dict"]
    after = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"fc.weight", "fc.bias"}


WATCHED = """
import weakref, sys
from frostline.commands import train
from frostline.commands.main import main

alive, counts, original = weakref.WeakSet(), [], train.train_in

def watched(folder, settings, **given):
    from frostline.classifier import ImageClassifier

    if not counts:
        made = ImageClassifier.__init__
        ImageClassifier.__init__ = lambda self, **given: (made(self, **given), alive.add(self), counts.append(1))[0]
    assert not alive, f"{len(alive)} of {len(counts)} networks are still there after a run"
    original(folder, settings, **given)

train.train_in = watched
main("train")
assert len(counts) == 2
assert not alive, "the last network is still there"
"""


@pytest.mark.slow
def test_a_sweep_s_runs_leave_no_network_behind_in_memory(cli: Cli, tmp_path: Path) -> None:
    done = cli(sys.executable, "-c", WATCHED, "-m", *SHORT, "seed=1,2")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*/*/facts.json"))) == 2


def test_the_best_and_the_last_checkpoint_of_the_same_moment_are_one_file(run: Path) -> None:
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    epochs = [torch.load(path, weights_only=True)["epoch"] for path in (best, last)]
    assert (best.stat().st_ino == last.stat().st_ino) == (epochs[0] == epochs[1])


def test_two_runs_started_in_the_same_second_do_not_collide(cli: Cli, tmp_path: Path) -> None:
    words = [*FROSTLINE, "train", "experiment=frozen_head", "model.weights=none", "callbacks.progress_bar=false"]
    pair = [Started(words, cwd=tmp_path) for _ in range(2)]
    assert [process.wait(200) for process in pair] == [0, 0]
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.slow
def test_the_default_run_reaches_97_percent_without_a_network(cli: Cli, tmp_path: Path) -> None:
    done = cli(sys.executable, Path(__file__).parents[2] / "train.py", "callbacks.progress_bar=false", seconds=1200)
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "runs").iterdir()
    assert facts(folder)["results"]["test/accuracy"] >= 0.97  # type: ignore[index]


@pytest.mark.slow
def test_fashion_mnist_from_files_reaches_85_percent(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        *FROSTLINE, "train", "data=fashion_mnist", "data.train_length=10000", "data.image_size=32",
        "data.batch_size=128", "optimizer=adamw", "model.weights=none", "trainer.max_epochs=10",
        "callbacks.progress_bar=false", seconds=2400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "runs").iterdir()
    assert facts(folder)["results"]["test/accuracy"] >= 0.85  # type: ignore[index]
