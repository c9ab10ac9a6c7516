"""`frostline train resume_from=RUN`: the run that was interrupted, and nothing of it lost, doubled or forgotten."""

import csv
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.conftest import FROSTLINE, Cli, facts
from tests.preloaded import Started
from tests.preloaded import run as run_preloaded

# At this rate, and from this seed, the third epoch is the best one: the best checkpoint is of before the interruption.
WORDS = (
    *("model.weights=none", "data.image_size=32", "data.batch_size=8", "freeze=backbone", "augment=none"),
    *(
        "seed=2",
        "optimizer=adamw",
        "optimizer.lr=1.0",
        "scheduler=constant",
        "trainer.precision=32-true",
        "trainer.max_epochs=4",
    ),
    *("trainer.limit_train_batches=12", "trainer.limit_val_batches=8", "trainer.log_every_n_steps=1"),
    *("callbacks.monitor=val/loss", "callbacks.early_stopping_patience=3", "callbacks.progress_bar=false"),
    *("logger=[csv,tensorboard]", "callbacks.pictures=true"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same run twice: `runs/whole` to its end, `runs/cut` interrupted after its best epoch."""
    folder = tmp_path_factory.mktemp("home")
    env = {**os.environ, "FROSTLINE_CACHE": str(folder / "cache")}
    words = [*FROSTLINE, "train", *WORDS]
    whole = run_preloaded(words, cwd=folder, output=folder, env={**env, "RUN_ID": "whole"})
    assert whole.returncode == 0, whole.stderr
    cut = Started(words, cwd=folder, env={**env, "RUN_ID": "cut"})
    log = wait_for_epoch(3, folder / "runs/cut")
    cut.send_signal(signal.SIGINT)
    assert cut.wait(120) == 130
    assert log.read_text().rstrip().endswith("-m frostline train resume_from=runs/cut")
    return folder


def wait_for_epoch(number: int, run: Path) -> Path:
    """Wait for an epoch's line in the log of a run; returns the log."""
    end, log = time.monotonic() + 120, run / "train.log"
    while not (log.exists() and f"epoch {number}/4" in log.read_text()):
        assert time.monotonic() < end, "the run did not start"
        time.sleep(0.02)
    return log


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv as logged, but for times; and for what is frozen, which a resumed run says again."""
    with (run / "metrics.csv").open(newline="") as file:
        found = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    timed = [{key: value for key, value in row.items() if not key.startswith("speed/")} for row in found]
    return [row for row in timed if "freezing/frost_line" not in row]


def checkpoint(run: Path, name: str = "best") -> dict[str, object]:
    content = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    assert isinstance(content, dict)
    return content


def assert_same_outcome(run: Path, whole: Path) -> None:
    """The same best and last checkpoints, best score, early stopping and test, to the last bit."""
    for name in ("best", "last"):
        one, other = checkpoint(run, name), checkpoint(whole, name)
        assert one["global_step"] == other["global_step"]
        states = one["state_dict"], other["state_dict"]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])  # type: ignore[index,attr-defined]
        kept = [found["callbacks"] for found in (one, other)]
        for key in kept[1]:  # type: ignore[attr-defined]
            if key.startswith("EarlyStopping"):
                assert kept[0][key] == kept[1][key]  # type: ignore[index]
            if key.startswith("ModelCheckpoint") and kept[1][key]["best_model_score"] is not None:  # type: ignore[index]
                assert torch.equal(kept[0][key]["best_model_score"], kept[1][key]["best_model_score"])  # type: ignore[index]
    for key in ("results", "confusion", "steps", "epochs"):
        assert facts(run)[key] == facts(whole)[key]


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The interrupted run in `runs/cut` of the test's folder."""
    return Path(shutil.copytree(home / "runs/cut", tmp_path / "runs/cut"))


def test_a_run_goes_on_in_its_folder_with_no_row_lost_or_doubled_and_the_same_best(
    home: Path, copy: Path, cli: Cli, tmp_path: Path
) -> None:
    whole, before = home / "runs/whole", checkpoint(copy)["global_step"]
    assert [path.name for path in (copy / "pictures").iterdir()] == ["curves.svg"]
    assert checkpoint(whole)["global_step"] == before, "the best epoch is to lie before the interruption"
    log = (copy / "train.log").read_text()
    done = cli(*FROSTLINE, "train", "resume_from=runs/cut")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["cut"]
    assert_same_outcome(copy, whole)
    assert rows(copy) == rows(whole)
    assert (copy / "train.log").read_text().startswith(log)
    assert (copy / "overrides.yaml").read_text() == (whole / "overrides.yaml").read_text()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_rows_its_tensorboard_folder_and_its_wandb_run(
    home: Path, cli: Cli, tmp_path: Path
) -> None:
    """SIGKILL in the middle of an epoch: the rows after the last checkpoint are logged again, none is there twice."""
    loggers = ("logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true")
    run, env = tmp_path / "runs/killed", {**os.environ, "RUN_ID": "killed", "WANDB_MODE": "offline"}
    killed = Started([*FROSTLINE, "train", *WORDS, *loggers], cwd=tmp_path, env=env)
    wait_for_epoch(2, run)
    end = time.monotonic() + 60
    while int(rows(run)[-1]["step"]) <= 25:  # beyond the last checkpoint, of step 24
        assert time.monotonic() < end
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    assert checkpoint(run, "last")["global_step"] == 24
    done = cli(*FROSTLINE, "train", "resume_from=runs/killed")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["killed"]
    assert_same_outcome(run, home / "runs/whole")
    assert rows(run) == rows(home / "runs/whole")
    assert scalars(run) == scalars(home / "runs/whole")
    started = [path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")]
    assert started == 2 * [(run / "wandb_id.txt").read_text().strip()]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each point of the losses, accuracies and rates in the TensorBoard folder."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if not name.startswith(("speed/", "freezing/", "epoch"))]
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in names}


def test_a_run_goes_on_in_another_folder_with_the_best_of_the_first(
    home: Path, copy: Path, cli: Cli, tmp_path: Path
) -> None:
    done = cli(*FROSTLINE, "train", "resume_from=runs/cut/checkpoints/last.ckpt", env={"RUN_ID": "other"})
    assert done.returncode == 0, done.stderr
    assert_same_outcome(tmp_path / "runs/other", home / "runs/whole")
    assert "epochs" not in facts(copy)


def test_what_is_typed_is_laid_over_the_checkpoints_config_and_checked(copy: Path, cli: Cli) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for typed, message in {
        "trainer.max_epochs=1": r"trainer\.max_epochs: 1, but .*last\.ckpt has done 3 epochs\. Type a larger number\.",
        "data.batch_size=4": r"data\.batch_size: 8 in the checkpoint, 4 now\. To go on as before, leave data\.batch",
        "data=synthetic": r"data\.name: digits in the checkpoint, synthetic now\. To go on as before, leave data out",
        "optimizer.momentum=0.5": r"optimizer\.momentum: unknown key here; it belongs to",
        "freeze=none": r"freeze: another policy than in the checkpoint",
    }.items():
        done = cli(*FROSTLINE, "train", "resume_from=runs/cut", typed)
        assert done.returncode == 2, done.stdout
        assert re.search(message, done.stderr), done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }
    done = cli(*FROSTLINE, "train", "resume_from=runs/cut", "optimizer.betas=[0.8,0.9]", "--cfg", "job")
    assert "- 0.8\n" in done.stdout
    assert "max_epochs: 4\n" in done.stdout


def test_evaluate_gives_the_runs_own_numbers_to_the_last_digit(home: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli(*FROSTLINE, "evaluate", f"checkpoint={home}/runs/whole", "output=result.json")
    assert done.returncode == 0, done.stderr
    assert f"checkpoint: {home}/runs/whole/checkpoints/best.ckpt\n" in done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    own = facts(home / "runs/whole")
    assert result["results"] == own["results"]
    assert result["confusion"] == own["confusion"]
