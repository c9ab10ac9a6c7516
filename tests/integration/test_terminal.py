"""What a training leaves on a screen: a real pseudo-terminal, emulated by pyte, and a pipe."""

import fcntl
import itertools
import os
import pty
import re
import select
import signal
import struct
import termios
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pyte
import pytest
from scripts.record_screen import recorded, svg

from tests.integration.conftest import FROSTLINE, SHORT, Cli, only_run
from tests.preloaded import Started

PHASES = (
    *(word for word in SHORT if not word.startswith(("callbacks.progress_bar", "trainer.max_epochs"))),
    *("freeze=gradual_unfreezing", "trainer.max_epochs=4", "data.batch_size=4"),
)
WIDEST = 200


class Terminal:
    """A pseudo-terminal of some width in which a command runs to its end.

    Attributes:
        lines: what is left on the screen, all that has scrolled away included.
        drawn: what stood in the cursor's line at some time, with the width that the terminal had.
    """

    def __init__(self, words: Sequence[str], *, columns: int, resizes: Sequence[tuple[str, int]], **env: str) -> None:
        self._terminal, inside = pty.openpty()
        self._set_columns(columns)
        # As long as everything that is printed, so that nothing scrolls away; the program sees 50 lines. As wide as the
        # terminal ever is: pyte's screen forgets what is cut off when it shrinks.
        screen = pyte.Screen(max([columns, *(width for _, width in resizes)]), 600)
        stream, waited_for = pyte.ByteStream(screen), list(resizes)
        self.drawn: list[tuple[int, str]] = []
        place, given = os.ttyname(inside), {"TERM": "xterm-256color", **env}
        whole = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        process = Started([*FROSTLINE, *words], env={**whole, **given}, stdout=place, stderr=place)
        select.select([self._terminal], [], [], 60)  # the process has opened the terminal by then
        os.close(inside)
        try:
            while chunk := os.read(self._terminal, 65536):
                stream.feed(chunk)
                line = screen.display[screen.cursor.y].rstrip()
                self.drawn.append((columns, line))
                if waited_for and waited_for[0][0] in line:
                    columns = waited_for.pop(0)[1]
                    self._set_columns(columns)
                    process.send_signal(signal.SIGWINCH)
        except OSError:  # Linux's way to say that the other end is closed
            pass
        os.close(self._terminal)
        self.lines = [line.rstrip() for line in screen.display]
        assert process.wait() == 0, "\n".join(self.lines).strip()
        assert not waited_for, self.drawn
        assert not screen.cursor.hidden

    def _set_columns(self, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))

    @property
    def progress(self) -> list[tuple[int, str]]:
        """The lines of progress that were drawn, with the terminal's width then."""
        return [(width, line) for width, line in self.drawn if re.match(r"(epoch \d/\d · (?!loss)|test · )", line)]


def logged(folder: Path) -> list[str]:
    """The lines that went into the log of the only run, without times and levels."""
    log = (only_run(folder) / "train.log").read_text().splitlines()
    return [re.sub(r"^[\d-]+ [\d:,]+ [A-Z]+ frostline[\w.]*: ", "", line) for line in log]


def unfolded(lines: list[str]) -> str:
    """All characters but white space in their order, however the terminal has folded the lines."""
    return "".join("".join(lines).split())


@pytest.mark.parametrize(
    ("columns", "resizes", "env"),
    [
        (80, [], {}),
        pytest.param(60, [], {"NO_COLOR": "1", "FORCE_COLOR": "1"}, marks=pytest.mark.slow),
        pytest.param(100, [("epoch 2/4 · layer4", 66), ("epoch 4/4", 140)], {"COLUMNS": "100"}, marks=pytest.mark.slow),
        pytest.param(200, [], {"FORCE_COLOR": "1"}, marks=pytest.mark.slow),
    ],
    ids=["80 columns", "60 without colours", "resized from 100 to 66 and 140", "200 columns"],
)
def test_the_screen_keeps_every_line_of_the_log_once_and_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    resizes: list[tuple[str, int]],
    env: dict[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(["train", *PHASES], columns=columns, resizes=resizes, **env)
    lines = logged(tmp_path)
    assert sum(bool(re.match(r"Phase \d of 4, ", line)) for line in lines) == 4
    assert sum(bool(re.match(r"epoch \d/4 · loss ", line)) for line in lines) == 4
    assert unfolded(terminal.lines) == unfolded(lines)
    assert "\x1b" not in "".join(lines)
    # In each width its own line of progress, which leaves the last column free; a resize shows from the next one on.
    assert {width for width, _ in terminal.progress} == {columns, *(width for _, width in resizes)}
    late = [now for before, now in itertools.pairwise(terminal.progress) if before[0] == now[0]]
    assert all(len(line) < width for width, line in late)
    # Of 60 columns, none are left for what is unfrozen.
    beginning = "epoch 2/4 · layer4 unfrozen · " if columns >= 80 else "epoch 2/4 · "
    assert any(line.startswith(beginning) for _, line in late)


@pytest.mark.slow
def test_a_dumb_terminal_gets_lines_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(["train", *PHASES], columns=120, resizes=[], TERM="dumb", FORCE_COLOR="1")
    assert unfolded(terminal.lines) == unfolded(logged(tmp_path))
    assert terminal.progress == []


@pytest.mark.slow
def test_two_processes_print_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(["train", *PHASES, "device=cpu", "device.devices=2"], columns=100, resizes=[])
    assert unfolded(terminal.lines) == unfolded(logged(tmp_path))
    assert terminal.progress


@pytest.mark.slow
def test_a_pipe_gets_lines_even_where_colours_are_forced(cli: Cli) -> None:
    done = cli(*FROSTLINE, "train", *PHASES, env={"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"})
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    epochs = [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
    number = r"[\d.e-]+"
    shape = rf"epoch \d/4 · loss {number} · acc {number} % · val acc {number} % · lr {number} · {number} img/s · .* s"
    assert [re.fullmatch(shape, line) is not None for line in epochs] == [True] * 4, epochs


def test_a_recording_shows_the_last_picture_of_the_screen_also_where_nothing_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = recorded(["plan", "freeze=backbone", "trainer.max_epochs=2"])
    drawing = ElementTree.fromstring(svg(pictures))
    texts = [element for element in drawing if element.tag.endswith("text")]
    stays = {element.text for element in texts if element.attrib["class"].startswith("l")}
    assert stays == {run.text for run in pictures[-1][1]}
    assert any(text.startswith("78 optimizer steps, 39 an epoch") for text in stays if text)
    assert "$ frostline plan freeze=backbone trainer.max_epochs=2" in {element.text for element in texts}
