"""A Python that starts in 0.1 s: forked from one that has imported torch, Lightning and frostline.

The import costs 8 s of a processor at each start of Python. A server process does it once for a session, and each start
is a fork of it: with arguments, environment, folder, output, signals and exit code of its own.
"""

import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

FROSTLINE = [sys.executable, "-m", "frostline"]
# For a test's own functions too: `CONTEXT.Process(target=…)`, or `start_method="forkserver"`.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("torch", "torchvision", "lightning", "matplotlib.pyplot", "hydra"),
        *(f"frostline.commands.{name}" for name in ("running", "train", "build", "trainer", "run_record")),
        *(f"frostline.commands.{name}" for name in ("evaluate", "predict", "plan", "pack", "own_classes")),
    ]
)


class Started:
    """A started Python, as `subprocess.Popen` would have it. Its output goes into files or to a terminal."""

    def __init__(
        self,
        words: Sequence[object],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: str | Path = os.devnull,
        stderr: str | Path = os.devnull,
    ) -> None:
        self._words, self._output = [str(word) for word in words], (Path(stdout), Path(stderr))
        assert self._words[0] == sys.executable
        whole_env = dict(os.environ if env is None else env)
        arguments = (self._words, str(cwd or Path.cwd()), whole_env, (str(stdout), str(stderr)), _search_path())
        self._process = CONTEXT.Process(target=_python, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def wait(self, seconds: float = 300) -> int:
        """The exit code, of a process that ends in time."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self._words, seconds)
        return self._process.exitcode

    def completed(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Its exit code and its output, of a process that ends in time."""
        code = self.wait(seconds)
        return subprocess.CompletedProcess(self._words, code, *(file.read_text() for file in self._output))

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)


def run(
    words: Sequence[object],
    *,
    output: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE …`, `python -c CODE …` or `python FILE …` to its end.

    Args:
        output: a folder for what is printed.
    """
    return Started(words, cwd=cwd, env=env, stdout=output / "stdout", stderr=output / "stderr").completed(seconds)


def run_ranks(
    words: Sequence[object],
    *,
    output: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> list[subprocess.CompletedProcess[str]]:
    """Run a Python as the two ranks of one run, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**(os.environ if env is None else env), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    ranks = [
        Started(
            words,
            cwd=cwd,
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=output / f"stdout{rank}",
            stderr=output / f"stderr{rank}",
        )
        for rank in ("0", "1")
    ]
    return [rank.completed(seconds) for rank in ranks]


def _python(
    words: list[str], folder: str, env: dict[str, str], output: tuple[str, str], search_path: list[str]
) -> None:
    for descriptor, name in enumerate(output, start=1):
        # A terminal must not be created, even though it exists.
        new = 0 if Path(name).exists() else os.O_CREAT
        file = os.open(name, os.O_WRONLY | os.O_TRUNC | new)
        os.dup2(file, descriptor)
        os.close(file)
        if os.isatty(descriptor):  # Python's own stream is of a file that can be searched
            stream = open(descriptor, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, ("stdout", "stderr")[descriptor - 1], stream)
    gc.freeze()  # what the server has imported is no garbage
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    # As Python itself has them.
    sys.orig_argv = words
    kind, name = (words[1], words[2]) if words[1] in ("-m", "-c") else ("", words[1])
    sys.argv = ["-c" if kind == "-c" else name, *words[3 if kind else 2 :]]
    first = {"-m": folder, "-c": ""}.get(kind, str(Path(name).parent))
    sys.path[:] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *search_path]
    if kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(name, "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(name, run_name="__main__")


@cache
def _search_path() -> list[str]:
    """Where this Python looks for modules by itself."""
    words = [sys.executable, "-I", "-c", "import sys; print(*sys.path, sep='\\n')"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
