"""Lines of a log, in the terminal and in a run folder's files."""

import logging
import sys
from typing import TextIO

from frostline.commands.arguments import with_keys
from frostline.commands.terminal import shown


class PrintableFormatter(logging.Formatter):
    """A formatter whose lines, tracebacks among them, are printable; the library's name keys in place of arguments."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return shown(with_keys(line) if record.name.startswith("frostline.") else line)


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to `sys.stdout` as it is when a record comes.

    While a bar is drawn, `sys.stdout` is Rich's, which prints above the bar. A handler that keeps the stream it
    found at the start writes into the bar, and the bar's next drawing erases the lines.
    """

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)
