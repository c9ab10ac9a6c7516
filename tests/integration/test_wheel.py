"""The built wheel in a clean environment, used from another folder."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, SHORT

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_in_a_clean_venv_trains_from_any_folder(tmp_path: Path) -> None:
    # Built from a clone: what git does not have, the wheel must not need.
    run("git", "clone", "--quiet", ROOT, "clone", cwd=tmp_path)
    uv = Path(sys.executable).with_name("uv")
    run(uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist", cwd=tmp_path / "clone")
    [wheel] = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    constraints = ROOT / "constraints.txt"
    run(uv, "pip", "install", "--quiet", "--python", python, "-c", constraints, wheel, cwd=tmp_path)
    frostline = tmp_path / "venv/bin/frostline"
    absent = "[name for name in ('sklearn', 'scipy', 'wandb', 'tensorboard') if importlib.util.find_spec(name) is None]"
    assert "4" in run(python, "-c", f"import importlib.util; print(len({absent}))", cwd=tmp_path)
    where = tmp_path / "somewhere else"
    where.mkdir()
    assert "site-packages" in run(python, "-c", "import frostline.conf as c; print(c.__path__[0])", cwd=where)
    assert "optimizer=" in run(frostline, "train", "--help", cwd=where)
    output = run(frostline, "train", *SHORT, cwd=where)
    assert "test accuracy" in output
    [folder] = (where / "runs").iterdir()
    assert "test accuracy" in run(frostline, "evaluate", f"checkpoint={folder}/checkpoints/best.ckpt", cwd=where)
