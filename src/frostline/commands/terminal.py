"""What a process writes to its terminal: text without secrets, and nothing that acts on a terminal.

Imports no logging, which registers an exit handler: `fast_exit` has to come before it.
"""

import io
import sys
from typing import Any, TextIO

from frostline.config.secret_values import hide
from frostline.storage.names import printable


def shown(text: str) -> str:
    """The text without secrets, and without characters that act on a terminal."""
    return printable(hide(text))


class PrintableStream:
    """A text stream that escapes control characters; in all else the stream that it is given.

    rich, which draws tables and bars with control characters of its own, writes to `rich_proxied_file`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        # tqdm's bars, in libraries: a carriage return, then the whole line.
        start = "\r" if text.startswith("\r") else ""
        self.rich_proxied_file.write(start + shown(text[len(start) :]))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def show_only_printable() -> None:
    """Let this process's standard output and error be printable, whatever prints to them.

    A character that their encoding lacks is escaped as well.
    """
    import logging

    logging.raiseExceptions = False  # a line that a full disk does not take is no reason for a traceback
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, PrintableStream(stream))
