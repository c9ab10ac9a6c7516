"""Cache folders under a byte limit: the least recently used files that are not in use are evicted."""

import os
import time
from collections import namedtuple
from pathlib import Path

import pytest

from frostline.storage.locks import share
from frostline.storage.lru import ABANDONED, DiskFullError, OverLimitError, evict, gigabytes, mark_used


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files a (used first) to d of 100 bytes, and others that are no cache files."""
    for number, name in enumerate("abcd"):
        (tmp_path / f"{name}.bin").write_bytes(bytes(100))
        os.utime(tmp_path / f"{name}.bin", (number, number))
    (tmp_path / ".lock").touch()
    (tmp_path / "notes.txt").write_bytes(bytes(1000))
    return tmp_path


def names(folder: Path) -> str:
    assert (folder / "notes.txt").exists()
    return "".join(sorted(path.stem for path in folder.glob("*.bin")))


def test_the_least_recently_used_are_evicted_and_no_more_than_needed(folder: Path) -> None:
    evict(folder, suffix=".bin", needed=100, limit=500)
    assert names(folder) == "abcd"
    mark_used(folder / "a.bin")
    evict(folder, suffix=".bin", needed=150, limit=500)
    assert names(folder) == "acd"
    evict(folder, suffix=".bin", needed=300, limit=400)
    assert names(folder) == "a"


def test_files_in_use_stay(folder: Path) -> None:
    with (folder / "a.bin").open("rb") as file:
        share(file.fileno())
        evict(folder, suffix=".bin", needed=200, limit=400)
        assert names(folder) == "ad"
        with pytest.raises(OverLimitError, match=r"take 0\.3 kB beside 0\.1 kB in use, more than the limit of 0\.4 kB"):
            evict(folder, suffix=".bin", needed=350, limit=400)
    evict(folder, suffix=".bin", needed=350, limit=400)
    assert names(folder) == ""


def test_a_file_larger_than_the_limit_evicts_nothing(folder: Path) -> None:
    with pytest.raises(OverLimitError, match=r"they would take 0\.2 kB, more than the limit of 0\.1 kB"):
        evict(folder, suffix=".bin", needed=200, limit=100)
    assert names(folder) == "abcd"


def test_files_are_evicted_for_space_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 500 - 100 * len(names(folder))))
    evict(folder, suffix=".bin", needed=300, limit=10**6)
    assert names(folder) == "cd"
    with pytest.raises(DiskFullError, match=r"they would take 0\.6 kB, and the disk has 0\.5 kB free"):
        evict(folder, suffix=".bin", needed=600, limit=10**6)


def test_temporary_files_count_and_are_removed_in_time(folder: Path) -> None:
    part = folder / ".x.bin.1.part"
    part.write_bytes(bytes(100))
    evict(folder, suffix=".bin", needed=100, limit=500)
    assert names(folder) == "bcd"
    os.utime(part, (time.time() - ABANDONED - 1,) * 2)
    evict(folder, suffix=".bin", needed=300, limit=500)
    assert (names(folder), part.exists()) == ("d", True)
    evict(folder, suffix=".bin", needed=500, limit=500)
    assert (names(folder), part.exists()) == ("", False)


def test_gigabytes() -> None:
    assert [gigabytes(count) for count in (1_000, 2_500_000, 3 * 10**9)] == ["1.0 kB", "2.5 MB", "3.0 GB"]
