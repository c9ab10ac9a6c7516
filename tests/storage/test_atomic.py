"""Atomic files and folders; a place that cannot be written is reported before the work."""

import os
import resource
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from frostline.storage.atomic import atomic_folder, atomically, output_problem, write_text


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_text(path, "before")
    with pytest.raises(ZeroDivisionError), atomically(path) as part:
        part.write_bytes(b"half" * (1 // 0))
    assert path.read_text() == "before"
    write_text(path, "Küche \udcfc")
    assert path.read_bytes() == "Küche ".encode() + b"\xfc"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/file").read_text() == "text"


def test_a_device_is_written_and_not_replaced() -> None:
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        write_text("/dev/full", "text")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_full_disk_names_the_file_and_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("before")
    script = (
        "import resource, signal, sys\n"
        "from frostline.storage.atomic import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_text(sys.argv[1], 'x' * 5000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert done.stderr.strip().endswith(f"OSError: [Errno 27] File too large: '{path}'")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_leftovers_of_killed_processes_are_removed_and_those_of_running_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    running = [tmp_path / f".{name}.{os.getppid()}.part" for name in ("folder", "out.csv")]
    running[0].mkdir()
    running[1].write_text("another process's")
    (tmp_path / f".folder.{ended.pid}.part/a").mkdir(parents=True)
    (tmp_path / f".out.csv.{ended.pid}.part").write_text("half")
    write_text(tmp_path / "out.csv", "text")
    with atomic_folder(tmp_path / "folder") as part:
        (part / "b").touch()
    assert sorted(tmp_path.iterdir()) == [*running, tmp_path / "folder", tmp_path / "out.csv"]


def test_a_folder_appears_when_it_is_complete_and_replaces_an_empty_one_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as part:
        (part / "file").write_bytes(b"half" * (1 // 0))
    assert list(path.parent.iterdir()) == []
    path.mkdir()
    for content in ("one", "two"):
        with suppress(OSError), atomic_folder(path) as part:
            (part / "file").write_text(content)
    assert (path / "file").read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "text")
    assert output_problem(str(tmp_path / ("n" * 255))) is None


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "is a folder; name a file in it."),
        ("new/", "names a folder; name a file in it."),
        ("file/out.csv", "cannot be written (Not a directory)."),
        ("n" * 256, "cannot be written (File name too long)."),
        ("loop/out.csv", "cannot be written (Too many levels of symbolic links)."),
        ("nul\0", "cannot be written (embedded null byte)."),
    ],
)
def test_a_file_that_cannot_be_written(places: Path, name: str, reason: str) -> None:
    path = f"{places}/{name}"
    assert output_problem(path) == f"`{path}` {reason}"


@pytest.mark.parametrize("name", ["file", "new.csv", "a/b/new.csv", "K\udcfcche.csv"])
def test_a_file_that_can_be_written(places: Path, name: str) -> None:
    before = sorted(places.rglob("*"))
    assert output_problem(f"{places}/{name}") is None
    assert sorted(places.rglob("*")) == before  # the check leaves nothing


def test_devices_can_be_written() -> None:
    assert output_problem("/dev/null") is None
    assert output_problem("/dev/stdout") is None


def test_folders(places: Path) -> None:
    assert output_problem(f"{places}/folder", folder=True) is None
    assert output_problem(f"{places}/a/b", folder=True) is None
    assert output_problem(f"{places}/file", folder=True) == f"`{places}/file` is a file; name a folder."
    assert output_problem(f"{places}/file/a", folder=True) == f"`{places}/file/a` cannot be written (Not a directory)."
    assert "cannot be written" in str(output_problem("/proc/new", folder=True))
