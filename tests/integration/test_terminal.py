"""What a training leaves on a screen: a real pseudo-terminal, emulated by pyte, and a pipe."""

import os
import pty
import re
import subprocess
from pathlib import Path

import pyte
import pytest

from tests.integration.conftest import FROSTLINE, SHORT, Cli, only_run

PHASES = (
    *(word for word in SHORT if not word.startswith(("callbacks.progress_bar", "trainer.max_epochs"))),
    *("freeze=gradual_unfreezing", "trainer.max_epochs=4", "data.batch_size=4", "test=false"),
)


def screen_of(folder: Path, *, columns: int, **env: str) -> list[str]:
    """The lines that a training has left on a terminal of so many columns."""
    terminal, inside = pty.openpty()
    size = {"COLUMNS": str(columns), "LINES": "50"}
    with subprocess.Popen(
        [*FROSTLINE, "train", *PHASES],
        stdin=inside, stdout=inside, stderr=inside, cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", **size, **env}, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(inside)
        # As long as everything that is printed, so that nothing scrolls away; the program sees 50 lines.
        screen = pyte.Screen(columns, 600)
        stream = pyte.ByteStream(screen)
        try:
            while chunk := os.read(terminal, 65536):
                stream.feed(chunk)
        except OSError:  # Linux's way to say that the other end is closed
            pass
        os.close(terminal)
    assert process.returncode == 0, screen.display
    return [line.rstrip() for line in screen.display]


def logged(folder: Path) -> list[str]:
    """The lines that went into the log of the only run, without times and levels."""
    log = (only_run(folder) / "train.log").read_text().splitlines()
    return [re.sub(r"^[\d-]+ [\d:,]+ [A-Z]+ frostline[\w.]*: ", "", line) for line in log]


def unfolded(lines: list[str]) -> str:
    """All characters but white space in their order, however the terminal has folded the lines."""
    return "".join("".join(lines).split())


@pytest.mark.parametrize(
    ("columns", "env"),
    [
        (80, {}),
        pytest.param(60, {"NO_COLOR": "1"}, marks=pytest.mark.slow),
        pytest.param(200, {"TERM": "dumb"}, marks=pytest.mark.slow),
    ],
)
def test_every_row_that_is_logged_stays_on_the_screen(tmp_path: Path, columns: int, env: dict[str, str]) -> None:
    shown = unfolded(screen_of(tmp_path, columns=columns, **env))
    lines = logged(tmp_path)
    assert sum(bool(re.match(r"Phase \d of 4, ", line)) for line in lines) == 4
    assert [line for line in lines if unfolded([line]) not in shown] == []


def test_a_pipe_gets_lines_even_where_colours_are_forced(cli: Cli, tmp_path: Path) -> None:
    done = cli(*FROSTLINE, "train", *PHASES, env={"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"})
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert "epoch 4 of 4: " in done.stdout
