"""Lines of a log, in the terminal and in a run folder's files."""

import logging
import sys
from pathlib import Path
from typing import TextIO

from frostline.commands.arguments import with_keys
from frostline.commands.command_line import sweep_folder
from frostline.commands.terminal import shown
from frostline.storage.run_files import LOG


class PrintableFormatter(logging.Formatter):
    """A formatter whose lines, tracebacks among them, are printable; the library's name keys in place of arguments."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return shown(with_keys(line) if record.name.startswith("frostline.") else line)


class NewWarnings(logging.Filter):
    """Of a sweep's jobs, the terminal shows warnings and errors only, and each of them once.

    Those of earlier jobs are in their logs; this job's own one gets a line after the terminal.

    Args:
        folder: the sweep's.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return False
        line = PrintableFormatter("%(message)s").format(record).strip()
        logs = self.folder.glob(f"*/{LOG}")
        return not any(line in log.read_text(encoding="utf-8", errors="replace") for log in logs)


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to `sys.stdout` as it is when a record comes.

    While a bar is drawn, `sys.stdout` is Rich's, which prints above the bar. A handler that keeps the stream it
    found at the start writes into the bar, and the bar's next drawing erases the lines.
    """

    def __init__(self) -> None:
        super().__init__()
        if (folder := sweep_folder()) is not None:
            self.addFilter(NewWarnings(folder))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)
