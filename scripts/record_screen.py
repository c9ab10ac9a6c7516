"""Record a command in a pseudo-terminal as an SVG that plays once: the README's picture of a training.

python scripts/record_screen.py screen.svg train freeze=gradual_unfreezing model.weights=none data.image_size=32
"""

import argparse
import fcntl
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyte

COLUMNS, ROWS = 100, 28
WIDTH, HEIGHT, MARGIN = 8.4, 18, 14  # px of a character, of a row, and around them
INTERVAL = 0.25  # s between two pictures
SPEED = 4  # times as fast as it was
PAUSE = 1.0  # s of the recording before the first output
COLOURS = {"default": "#d7dee8", "green": "#7bd88f", "yellow": "#f5c97a", "red": "#ff7b72", "cyan": "#79c7ff"}


class Run(NamedTuple):
    """Characters of one style, from a column of a row on."""

    row: int
    column: int
    text: str
    colour: str
    bold: bool


def recorded(words: list[str]) -> list[tuple[float, frozenset[Run]]]:
    """Seconds since the start, and what the screen showed from then on."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ frostline {' '.join(words)}\r\n".encode())
    pictures = [(0.0, frozenset(_runs(screen)))]
    process, terminal = pty.fork()
    if process == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
        os.execv(sys.executable, [sys.executable, "-m", "frostline", *words])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    start, first = time.monotonic(), None
    try:
        while chunk := os.read(terminal, 65536):
            stream.feed(chunk)
            first = time.monotonic() if first is None else first
            seconds = PAUSE * SPEED + time.monotonic() - first
            if seconds - pictures[-1][0] >= INTERVAL * SPEED:
                pictures.append((seconds, frozenset(_runs(screen))))
    except OSError:  # Linux's way to say that the other end is closed
        pass
    pictures.append((PAUSE * SPEED + time.monotonic() - (first or start), frozenset(_runs(screen))))
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        sys.exit("\n".join([*(line.rstrip() for line in screen.display), f"exit code {code}"]))
    return pictures


def svg(pictures: list[tuple[float, frozenset[Run]]]) -> str:
    """The recording. What the last picture shows stands there also where nothing moves."""
    width, height = round(2 * MARGIN + COLUMNS * WIDTH), 2 * MARGIN + ROWS * HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' role="img" aria-label="A training on the screen of a terminal">',
        "<style>text{font:14px ui-monospace,Menlo,Consolas,monospace;white-space:pre}.b{font-weight:bold}"
        ".t{visibility:hidden}@media (prefers-reduced-motion:no-preference){"
        ".t{animation:on 1s step-end}.l{animation:off 1s step-end}}"
        "@keyframes on{from,to{visibility:visible}}@keyframes off{from,to{visibility:hidden}}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#141a22"/>',
    ]
    last = pictures[-1][1]
    for run, start, end in sorted(_shown(pictures)):
        stays = run in last and end is None
        timing = f"animation-duration:{start:.2f}s" if stays else f"animation-delay:{start:.2f}s;"
        timing += "" if stays or end is None else f"animation-duration:{end - start:.2f}s"
        moves = f' style="{timing}"' if not stays or start else ""
        kind = "l" if stays else "t"
        x, y = MARGIN + run.column * WIDTH, MARGIN + (run.row + 0.75) * HEIGHT
        lines.append(
            f'<text class="{kind}{" b" if run.bold else ""}" x="{x:.1f}" y="{y:.1f}" fill="{run.colour}"'
            f' textLength="{len(run.text) * WIDTH:.1f}"{moves}>{escape(run.text)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _runs(screen: pyte.Screen) -> Iterator[Run]:
    for row in range(ROWS):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        for (colour, bold), group in groupby(enumerate(cells), lambda item: (item[1].fg, item[1].bold)):
            columns, characters = zip(*group, strict=True)
            text = "".join(character.data for character in characters)
            if text.strip():
                indent = len(text) - len(text.lstrip())
                shown = COLOURS.get(colour, COLOURS["default"])
                yield Run(row, columns[0] + indent, text.strip(), shown, bold)


def _shown(pictures: list[tuple[float, frozenset[Run]]]) -> Iterator[tuple[Run, float, float | None]]:
    """What was shown, from and to when in seconds of the recording; to None where it stays."""
    since: dict[Run, float] = {}
    for seconds, runs in pictures:
        now = seconds / SPEED
        for run in [run for run in since if run not in runs]:
            yield run, since.pop(run), now
        since |= {run: now for run in runs if run not in since}
    for run, start in since.items():
        yield run, start, None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("words", nargs=argparse.REMAINDER, help="of the frostline command")
    given = parser.parse_args()
    given.output.write_text(svg(recorded(given.words)), encoding="utf-8")
