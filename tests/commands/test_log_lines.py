"""In a sweep, the terminal gets new warnings only."""

import logging
from pathlib import Path

import pytest

from frostline.commands.command_line import SWEEP_VARIABLE
from frostline.commands.log_lines import PrintableFormatter, TerminalHandler


def test_a_warning_is_shown_of_the_first_job_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, str(tmp_path))
    for job, own in enumerate(("", "data: 8 images were left out")):
        (tmp_path / str(job)).mkdir()
        file = logging.FileHandler(tmp_path / str(job) / "train.log")
        file.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        log = logging.getLogger(f"frostline.job{job}")
        log.propagate = False
        log.setLevel(logging.INFO)
        for handler in (TerminalHandler(), file):
            log.addHandler(handler)
        log.info("Phase 1 of 1\na table")
        for _ in range(2):
            log.warning("WARNING: RANDOM weights, of\ntwo lines\n")
        if own:
            log.warning("%s", own)
        file.close()
    assert capsys.readouterr().out == "WARNING: RANDOM weights, of\ntwo lines\n\ndata: 8 images were left out\n"


def test_outside_of_a_sweep_everything_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("frostline.alone")
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(TerminalHandler())
    log.info("Phase 1 of 1")
    assert capsys.readouterr().out == "Phase 1 of 1\n"
