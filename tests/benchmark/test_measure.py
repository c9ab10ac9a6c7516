"""How a process tree is measured: children, grandchildren and orphans that burn and hold known amounts."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MEASURE = Path(__file__).parents[2] / "scripts" / "benchmark" / "contest" / "measure.py"
BURN = """
import os, subprocess, sys, time

def burn(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass

def fill(size):
    kept = bytearray(size)
    for place in range(0, size, 4096):
        kept[place] = 1
    return kept
"""


def measured(tmp_path: Path, program: str, *options: str) -> dict:
    script, result = tmp_path / "program.py", tmp_path / "result.json"
    script.write_text(BURN + textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, str(MEASURE), "--result", str(result), *options, "--", sys.executable, str(script)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(result.read_text())


def test_the_processor_time_of_child_and_grandchild_counts(tmp_path):
    found = measured(
        tmp_path,
        """
        if len(sys.argv) == 1:
            subprocess.run([sys.executable, __file__, "again"], check=True)
        burn(0.6)
        """,
    )
    # Two starts of the interpreter come on top.
    assert 1.2 <= found["user"] + found["system"] < 2.0
    assert found["returncode"] == 0


def test_the_processor_time_of_an_orphan_counts_but_its_wall_time_does_not(tmp_path):
    found = measured(
        tmp_path,
        """
        if len(sys.argv) == 1:
            subprocess.Popen([sys.executable, __file__, "orphan"])
        else:
            time.sleep(3.0)
            burn(0.8)
        """,
    )
    assert found["user"] + found["system"] >= 0.8
    assert found["wall"] < 3.0


def test_memory_of_the_whole_tree_is_added_up_and_shared_pages_count_once(tmp_path):
    held = 96 * 2**20
    alone = measured(tmp_path, "time.sleep(0.6)")
    forked = measured(
        tmp_path,
        f"""
        kept = fill({held})
        child = os.fork()
        if child == 0:
            own = fill({held})
        time.sleep(1.2)
        if child:
            os.waitpid(child, 0)
        """,
    )
    # What the child inherited is the parent's too, and counts once; what it fills itself is its own.
    assert 2 * held <= forked["peak_pss"] < 2 * held + alone["peak_pss"] + held / 2
    assert forked["max_rss"] >= held


def test_the_start_ends_when_the_first_file_below_the_folder_is_opened(tmp_path):
    folder = tmp_path / "images"
    (folder / "class0").mkdir(parents=True)
    (folder / "class0" / "0.jpg").write_bytes(b"")
    found = measured(
        tmp_path,
        f"""
        os.listdir({str(folder / "class0")!r})  # scanning is a part of the start
        burn(0.5)
        open({str(folder / "class0" / "0.jpg")!r}).close()
        time.sleep(0.2)
        burn(0.5)
        """,
        "--watch",
        str(folder),
    )
    assert 0.5 <= found["start_wall"] <= found["wall"] - 0.7
    assert 0.4 <= found["start_cpu"] < 0.95


def test_without_a_file_opened_there_is_no_start(tmp_path):
    (tmp_path / "images").mkdir()
    assert "start_cpu" not in measured(tmp_path, "pass", "--watch", str(tmp_path / "images"))


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path):
    marker = tmp_path / "survived"
    found = measured(
        tmp_path,
        f"""
        if len(sys.argv) == 1:
            subprocess.Popen([sys.executable, __file__, "child"])
        time.sleep(8)
        open({str(marker)!r}, "w").close()
        """,
        "--timeout",
        "1.0",
    )
    assert found["timed_out"]
    assert found["returncode"] != 0
    assert found["wall"] < 8
    assert not marker.exists()


def test_what_others_use_is_reported_apart(tmp_path):
    """A neighbour that burns a whole core while the command sleeps; other tests may use the rest."""
    neighbour = subprocess.Popen([sys.executable, "-c", BURN + "burn(3)"])
    try:
        found = measured(tmp_path, "time.sleep(1.0)")
    finally:
        neighbour.kill()
        neighbour.wait()
    assert found["others"] > 0.3 / len(os.sched_getaffinity(0))
    assert found["user"] + found["system"] < 0.5


@pytest.mark.parametrize("code", [0, 7])
def test_the_exit_code_is_the_commands(tmp_path, code):
    assert measured(tmp_path, f"sys.exit({code})")["returncode"] == code
