"""A sweep goes on where it was interrupted, and one failed job stops no other."""

from pathlib import Path

import pytest
import yaml
from tests.configs import config
from tests.preloaded import FROSTLINE
from tests.preloaded import run as run_preloaded

from frostline.commands.sweep import Job, with_own_checkpoint
from frostline.config.commands import TrainConfig


def job_folder(sweep: Path, number: int, *overrides: str, checkpoint: bool = True) -> str:
    folder = sweep / str(number)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    if checkpoint:
        (folder / "checkpoints/last.ckpt").touch()
    return str(folder / "checkpoints/last.ckpt")


def resumed(source: Path | str, *swept: str) -> tuple[object, object]:
    changed = {"resume_from": str(source), "init_from": "weights", "on_policy_change": "restart"}
    found = with_own_checkpoint(config().model_copy(update=changed), Job(number=0, swept=swept))
    assert isinstance(found, TrainConfig)
    return found.resume_from, found.init_from


def test_each_job_finds_its_own_checkpoint(tmp_path: Path) -> None:
    done = job_folder(tmp_path / "a", 0, "seed=1", "freeze=backbone")
    cut = job_folder(tmp_path / "a", 1, "seed=1", "freeze=none")
    job_folder(tmp_path / "a", 2, "seed=1", "freeze=to_layer3", checkpoint=False)
    assert resumed(tmp_path / "a", "freeze=backbone") == (done, None)
    assert resumed(tmp_path / "a", "freeze=none") == (cut, None)
    assert resumed(tmp_path / "a", "freeze=to_layer3") == (None, "weights")  # it had saved nothing
    assert resumed(tmp_path / "a", "freeze=to_layer2") == (None, "weights")  # it had not begun
    assert resumed(done, "freeze=backbone") == (done, "weights")  # a checkpoint is taken as it is


def test_a_sweep_that_was_interrupted_twice_finds_the_first_one_s_jobs(tmp_path: Path) -> None:
    first, start = tmp_path / "a b", tmp_path / "start.ckpt"
    start.touch()
    job_folder(first, 0, "seed=0", f"resume_from={start}")
    late = job_folder(first, 1, "seed=1", f"resume_from={start}")
    again = job_folder(tmp_path / "b", 0, "seed=0", f'resume_from="{first}"')
    assert resumed(tmp_path / "b", "seed=0")[0] == again
    assert resumed(tmp_path / "b", "seed=1")[0] == late
    assert resumed(tmp_path / "b", "seed=2")[0] == str(start)  # from which all of them had begun


def test_a_folder_that_is_no_sweep_s_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        resumed(tmp_path, "seed=1")
    with pytest.raises(SystemExit):
        with_own_checkpoint(config().model_copy(update={"resume_from": str(tmp_path)}), None)
    assert capsys.readouterr().err == (
        f"frostline: resume_from: `{tmp_path}` is no folder of a sweep. Name one, or a checkpoint.\n"
        f"frostline: resume_from: `{tmp_path}` is a folder. Name a checkpoint in it, such as checkpoints/last.ckpt.\n"
    )


def test_one_failed_job_stops_no_other(tmp_path: Path) -> None:
    words = [*FROSTLINE, "plan", "freeze=custom", "freeze.train=[nothing],[head],[neither]", "model.weights=none", "-m"]
    done = run_preloaded(words, cwd=tmp_path, output=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout.count("optimizer steps, ") == 1
    assert "`nothing`" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "frostline: 2 of the sweep's jobs failed: 1 (freeze.train=[nothing]); 3 (freeze.train=[neither])."
    )
