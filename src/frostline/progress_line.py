"""The line of progress at the bottom of a terminal: always one line, and everything else is printed above it."""

import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # rich is imported where a line is drawn
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

DRAWN_PER_SECOND = 5
SEPARATOR = " · "


class Part(NamedTuple):
    """A part of the line; of parts that do not fit, the one with the highest `rank` is left out first."""

    text: str
    rank: int


class ProgressLine:
    """One line on standard output, where that is a terminal that can move its cursor; elsewhere nothing.

    While the line is shown, `sys.stdout` prints above it, and so does `sys.stderr` on the same terminal. It is drawn
    when it is asked for, and by no thread.

    Attributes:
        is_drawn: whether this is such a terminal.
    """

    def __init__(self) -> None:
        self.is_drawn = _can_draw()
        self._parts: list[Part] = []
        self._live: Live | None = None
        self._drawn = -1.0

    def is_due(self) -> bool:
        """Whether `show` would draw now: what a line shows may cost time to find out."""
        return self.is_drawn and time.monotonic() - self._drawn >= 1 / DRAWN_PER_SECOND

    def show(self, *parts: Part, at_once: bool = False) -> None:
        """Draw these parts in place of the last ones, at most `DRAWN_PER_SECOND` times a second but for `at_once`."""
        if not self.is_due() and not (at_once and self.is_drawn):
            return
        self._drawn, self._parts = time.monotonic(), list(parts)
        if self._live is None:
            self._live = _live(self)
            self._live.start()
        self._live.refresh()

    def clear(self) -> None:
        """Remove the line, and give standard output and error back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        yield Text(fitted(self._parts, width=_columns(options.max_width) - 1), no_wrap=True, end="")


def fitted(parts: list[Part], *, width: int) -> str:
    """The parts in one line of at most so many columns."""
    from rich.cells import cell_len, set_cell_size

    kept = list(parts)
    while len(kept) > 1 and cell_len(_joined(kept)) > width:
        kept.remove(max(kept, key=lambda part: part.rank))
    text = _joined(kept)
    return text if cell_len(text) <= width else set_cell_size(text, max(width, 0))


def of_total(done: int, total: float) -> str:
    """ "42/120"; the number alone where the total is not known."""
    return f"{done:,}/{total:,.0f}" if total < float("inf") else f"{done:,}"


def clock(seconds: float) -> str:
    """92 -> "1:32", 3692 -> "1:01:32"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def image_rate(rate: float) -> str:
    """ "118 img/s"; below ten with a decimal."""
    return f"{rate:,.0f} img/s" if rate >= 10 else f"{rate:.1f} img/s"


def _joined(parts: list[Part]) -> str:
    return SEPARATOR.join(part.text for part in parts)


def _can_draw() -> bool:
    # Not what rich takes for a terminal: FORCE_COLOR and TTY_COMPATIBLE make that of any file.
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _columns(width: int) -> int:
    """The width of the terminal as it is now: COLUMNS, which rich goes by, does not follow a resize."""
    try:
        return min(width, os.get_terminal_size(sys.stdout.fileno()).columns or width)
    except (OSError, ValueError):
        return width


def _live(line: ProgressLine) -> "Live":
    from rich.console import Console
    from rich.live import Live

    # A command's stdout escapes control characters (frostline.commands.terminal), of which a line of progress consists.
    raw = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    # soft_wrap: what is printed above is wrapped by the terminal, not by rich: a path in it can be copied.
    console = Console(file=raw, soft_wrap=True, force_terminal=True, highlight=False)
    redirected = sys.stderr is not None and sys.stderr.isatty()
    return Live(line, console=console, auto_refresh=False, transient=True, redirect_stderr=redirected)
