"""Tab completion, in a real bash on a pseudo-terminal and as the shells' scripts ask for it."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def typed(install: str, keys: str, *, shown: str, cwd: Path) -> str:
    """What a bash shows after the keys, once `shown` is among it."""
    terminal, inside = pty.openpty()
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PS1": "ready> ", "TERM": "dumb", "HISTFILE": ""}
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
    os.close(inside)
    seen = ""

    def until(text: str) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while text not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 65536).decode(errors="replace")
        assert text in seen, seen

    try:
        until("ready> ")
        os.write(terminal, f"{install}; echo in''stalled\n".encode())
        until("installed")
        os.write(terminal, keys.encode())
        seen = ""
        until(shown)
        return seen
    finally:
        bash.kill()
        bash.wait()
        os.close(terminal)


@pytest.mark.parametrize(
    ("install", "keys", "shown"),
    [
        ('eval "$(frostline train -sc install=bash)"', "frostline train freeze=grad\t", "freeze=gradual_unfreezing"),
        ('eval "$(frostline -sc install=bash)"', "frostline eval\t", "frostline evaluate"),
        ('eval "$(python train.py -sc install=bash)"', "python train.py optimizer.mo\t", "optimizer.momentum="),
    ],
)
def test_tab_completes_groups_commands_and_keys(install: str, keys: str, shown: str) -> None:
    assert "unknown option" not in typed(install, keys, shown=shown, cwd=ROOT)


def completed(line: str) -> list[str]:
    done = subprocess.run(
        [BIN / "frostline", "-sc", "query=bash"],
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        text=True,
        check=False,  # a line that cannot be read is no error of the shell's
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_completion_knows_the_command_on_the_line() -> None:
    assert completed("frostline predict che") == ["checkpoint="]
    assert {"train", "evaluate", "tour"} <= set(completed("frostline "))
    assert "freeze=" in completed("frostline train ")
    assert completed("frostline trainn freeze=") == []


def test_a_line_that_cannot_be_read_yet_completes_nothing_and_prints_nothing() -> None:
    assert completed("frostline train data.path=a(b freeze=") == []


@pytest.mark.parametrize("words", [["-sc"], ["train", "-sc", "install=tcsh"], ["train", "-sc", "seed=1"]])
def test_a_shell_that_has_no_completion_is_refused_with_the_choices(words: list[str]) -> None:
    done = subprocess.run([BIN / "frostline", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "frostline: -sc: takes install=SHELL or uninstall=SHELL, with bash, zsh, fish for SHELL.\n"
