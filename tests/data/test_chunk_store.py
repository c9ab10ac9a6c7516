"""The local cache of chunks: one process fetches, the others wait; the least recently used are evicted."""

import multiprocessing
import os
import time
import zlib
from pathlib import Path

import pytest

from frostline.data.chunk_folder import ChunkEntry, ChunkError
from frostline.data.chunk_store import ChunkCache

CONTENT = bytes(range(100))


def entry(name: str = "a.bin", content: bytes = CONTENT) -> ChunkEntry:
    return ChunkEntry(name, len(content), 1, zlib.crc32(content))


def opened(cache: ChunkCache, name: str, content: bytes = CONTENT, fetched: list[str] | None = None) -> bytes:
    def fetch(file) -> None:
        if fetched is not None:
            fetched.append(name)
        file.write(content)

    fd = cache.open(name, entry(name, content), fetch=fetch, where=name)
    try:
        return os.read(fd, 1000)
    finally:
        os.close(fd)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_chunk_is_fetched_once(tmp_path):
    cache, fetched = ChunkCache(tmp_path / "new" / "cache", limit=1000), []
    assert [opened(cache, "a.bin", fetched=fetched) for _ in range(3)] == [CONTENT] * 3
    assert fetched == ["a.bin"]


def test_the_least_recently_used_is_evicted(tmp_path):
    cache, fetched = ChunkCache(tmp_path, limit=300), []
    for number, name in enumerate(("a.bin", "b.bin", "c.bin")):
        opened(cache, name, fetched=fetched)
        os.utime(tmp_path / name, (number, number))
    opened(cache, "a.bin", fetched=fetched)  # used: b is now the least recently used
    opened(cache, "d.bin", fetched=fetched)
    assert kept(tmp_path) == ["a.bin", "c.bin", "d.bin"]
    opened(cache, "b.bin", fetched=fetched)
    assert fetched == ["a.bin", "b.bin", "c.bin", "d.bin", "b.bin"]
    assert kept(tmp_path) == ["a.bin", "b.bin", "d.bin"]


def test_a_chunk_that_is_evicted_while_open_can_still_be_read(tmp_path):
    cache = ChunkCache(tmp_path, limit=100)
    fd = cache.open("a.bin", entry(), fetch=lambda file: file.write(CONTENT), where="a")
    opened(cache, "b.bin")
    assert kept(tmp_path) == ["b.bin"]
    assert os.pread(fd, 1000, 0) == CONTENT
    os.close(fd)


def test_an_incomplete_chunk_is_fetched_again(tmp_path):
    cache, fetched = ChunkCache(tmp_path, limit=1000), []
    opened(cache, "a.bin", fetched=fetched)
    (tmp_path / "a.bin").write_bytes(CONTENT[:50])
    assert opened(cache, "a.bin", fetched=fetched) == CONTENT
    assert fetched == ["a.bin", "a.bin"]


@pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT + b"?"])
def test_a_corrupt_download_is_not_kept(tmp_path, wrong):
    cache = ChunkCache(tmp_path, limit=1000)
    with pytest.raises(ChunkError, match=r"^place: corrupt"):
        cache.open("a.bin", entry(), fetch=lambda file: file.write(wrong), where="place")
    assert kept(tmp_path) == []


def test_a_download_that_fails_leaves_nothing(tmp_path):
    def fail(file) -> None:
        file.write(CONTENT[:10])
        raise ChunkError("no")

    with pytest.raises(ChunkError, match="no"):
        ChunkCache(tmp_path, limit=1000).open("a.bin", entry(), fetch=fail, where="place")
    assert kept(tmp_path) == []


def test_a_download_that_is_running_counts(tmp_path):
    cache = ChunkCache(tmp_path, limit=250)
    (tmp_path / ".x.bin.1.part").write_bytes(CONTENT)
    opened(cache, "a.bin")
    opened(cache, "b.bin")
    assert kept(tmp_path) == ["b.bin"]


def test_a_chunk_over_the_limit_is_fetched(tmp_path):
    assert opened(ChunkCache(tmp_path, limit=10), "a.bin") == CONTENT


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ChunkError, match=r"cache_dir=.*file: cannot be used"):
        opened(ChunkCache(tmp_path / "file", limit=1000), "a.bin")


def fetch_slowly(folder: str, log: str) -> None:
    def fetch(file) -> None:
        with Path(log).open("a") as lines:
            lines.write("fetched\n")
        time.sleep(0.5)
        file.write(CONTENT)

    os.close(ChunkCache(Path(folder), limit=1000).open("a.bin", entry(), fetch=fetch, where="a"))


def test_of_several_processes_one_fetches_and_the_others_wait(tmp_path):
    context = multiprocessing.get_context("forkserver")
    arguments = (str(tmp_path / "cache"), str(tmp_path / "log"))
    processes = [context.Process(target=fetch_slowly, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"
