"""Nothing that a file, a class or a library's message holds acts on the terminal."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from frostline.commands.log_lines import PrintableFormatter
from frostline.commands.terminal import PrintableStream

ATTACK = "\x1b]0;owned\x07\x1b[2J\u202ename"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\u202ename"


def test_a_stream_shows_what_it_is_given() -> None:
    raw = io.StringIO()
    stream = PrintableStream(raw)
    print(f"a line\n\tof {ATTACK}", file=stream)
    stream.write("\r 10%|█ | 1/10")
    assert raw.getvalue() == f"a line\n\tof {SHOWN}\n\r 10%|█ | 1/10"


def test_rich_keeps_its_own_control_characters() -> None:
    raw = io.StringIO()
    Console(file=PrintableStream(raw), force_terminal=True, color_system="standard").print("[red]x[/red]")
    assert raw.getvalue() == "\x1b[31mx\x1b[0m\n"


def test_a_log_line_and_its_traceback_are_printable() -> None:
    raw, log = io.StringIO(), logging.Logger("test")
    handler = logging.StreamHandler(raw)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    log.addHandler(handler)
    try:
        raise ValueError(ATTACK)
    except ValueError:
        log.exception("image %s", ATTACK)
    assert "\x1b" not in raw.getvalue()
    assert raw.getvalue().count(SHOWN) == 2


def test_every_command_prints_so_in_every_locale() -> None:
    """Hydra's own errors too, and where the terminal has no UTF-8."""
    words = [sys.executable, "-m", "frostline", "plan", f"model={ATTACK}é", "seed=ü"]
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, env=env)
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr
    assert b"owned" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_run_folder_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words, env in (([f"hydra.run.dir={tmp_path}/file/x"], {}), ([f"output_dir={tmp_path}"], {"RUN_ID": "file"})):
        done = subprocess.run(
            [sys.executable, "-m", "frostline", "train", *words],
            capture_output=True,
            text=True,
            env={**os.environ, **env},
        )
        assert done.returncode == 2
        assert done.stderr.startswith(f"frostline: The run folder `{tmp_path}/file")
        assert len(done.stderr.splitlines()) == 1
