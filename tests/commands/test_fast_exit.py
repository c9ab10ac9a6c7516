"""A process ends at once, but not before everybody who wanted to has done what was left, and with the right code."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]

FREED = """
import runpy, sys

class Freed:
    def __del__(self):
        print("taken apart")

freed = Freed()
"""
SCRIPT = (
    FREED
    + """
{before}
from frostline.commands.fast_exit import fast_exit

with fast_exit():
    import atexit, logging, threading, time
    atexit.register(print, "a library's exit handler")
    logging.basicConfig(filename=sys.argv[1], format="%(message)s")
    def upload():
        time.sleep(0.5)
        print("a thread that was not done")
        logging.warning("logged")
    threading.Thread(target=upload).start()
    {end}
"""
)
WAITED_FOR = "a thread that was not done\na library's exit handler\n"


def ended(end: str, log: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    # A pipe: what is printed stays in a buffer until it is flushed.
    words = [sys.executable, "-c", SCRIPT.format(end=end, before=before), str(log)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("end", "code"),
    [("pass", 0), ("sys.exit()", 0), ("sys.exit(2)", 2), ("sys.exit(130)", 130), ("raise SystemExit(-1)", 255)],
)
def test_exit_handlers_and_threads_are_waited_for_and_nothing_else(end: str, code: int, tmp_path: Path) -> None:
    done = ended(end, tmp_path / "log")
    assert (done.returncode, done.stdout, done.stderr) == (code, WAITED_FOR, "")
    assert (tmp_path / "log").read_text() == "logged\n"


@pytest.mark.parametrize(
    ("end", "error"),
    [("sys.exit('reason')", "reason\n"), ("raise ValueError('unforeseen')", "ValueError: unforeseen\n")],
)
def test_other_ends_are_python_s_own(end: str, error: str, tmp_path: Path) -> None:
    done = ended(end, tmp_path / "log")
    assert (done.returncode, done.stdout) == (1, f"{WAITED_FOR}taken apart\n")
    assert done.stderr.endswith(error)


def test_a_process_that_used_a_gpu_ends_as_python_does(tmp_path: Path) -> None:
    end = "import types; sys.modules['torch'] = types.SimpleNamespace(cuda=types.SimpleNamespace(is_initialized={}))"
    done = ended(end.format("lambda: True"), tmp_path / "log")
    assert (done.returncode, done.stdout) == (0, f"{WAITED_FOR}taken apart\n")
    done = ended(end.format("lambda: False"), tmp_path / "log")
    assert (done.returncode, done.stdout) == (0, WAITED_FOR)


def test_nothing_that_was_registered_before_is_lost(tmp_path: Path) -> None:
    before = "import atexit; atexit.register(print, 'coverage written')"
    done = ended("sys.exit(3)", tmp_path / "log", before)
    assert (done.returncode, done.stdout) == (3, f"{WAITED_FOR}coverage written\ntaken apart\n")


def test_an_output_that_no_one_reads_ends_as_python_does() -> None:
    code = SCRIPT.format(end="pass", before="")
    process = subprocess.Popen(
        [sys.executable, "-c", code, os.devnull], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 120  # Python could not write what was printed


WORKER = """
import frostline.commands.train as train
train.train_in = lambda folder, settings: print(folder, settings)
"""
SETTINGS = pickle.dumps(({"seed": 1}, ()))  # with which a worker is started


@pytest.mark.parametrize(
    ("program", "words", "prints"),
    [
        ("runpy.run_path('train.py', run_name='__main__')", ["--help"], "freeze="),
        ("print('other')", [], "other"),
        ("runpy.run_module('frostline', run_name='__main__')", ["--version"], "frostline 0."),
        ("from frostline.commands.main import program; sys.exit(program())", ["--version"], "frostline 0."),
        (WORKER + "runpy.run_module('frostline.commands.worker', run_name='__main__')", ["somewhere"], "somewhere"),
    ],
    ids=["train.py", "other programs", "python -m frostline", "frostline", "worker"],
)
def test_each_of_frostline_s_programs_ends_so(program: str, words: list[str], prints: str) -> None:
    code = FREED + program
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, input=SETTINGS, check=True)
    printed = done.stdout.decode()
    assert prints in printed
    assert ("taken apart" in printed) == (prints == "other")


def test_the_installed_command_is_the_program_that_ends_so() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"frostline": "frostline.commands.main:program"}


IMPORTS = """
import gc
from frostline.commands.fast_exit import collect_rarely

generations = []
gc.callbacks.append(lambda phase, info: generations.append(info["generation"]))
collect_rarely()
import frostline.commands.build
assert generations and 2 not in generations and len(generations) < 100, generations
"""


def test_imports_are_hardly_searched_for_garbage() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", IMPORTS], check=True)
