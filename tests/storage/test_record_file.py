"""Record files: what was written is read back; corrupt records are missing and files created again."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from frostline.storage import record_file
from frostline.storage.checksums import checksum
from frostline.storage.record_file import HEADER, RecordFile, Records, open_record_file

EQUAL = Records(count=10, lengths=12)
UNEQUAL = Records(count=4, lengths=np.array([30, 0, 5, 12], np.int64))
GB = 10**9


def opened(folder: Path, records: Records = EQUAL, *, limit: int = GB, of: str = "a test") -> RecordFile:
    about = {"of": of}
    return open_record_file(folder / "key.rows", records=lambda: records, about=about, limit=limit, advice="")


def content(file: RecordFile, number: int, seed: int = 0) -> bytes:
    return np.random.default_rng((seed, number)).bytes(file.begins[number + 1] - file.begins[number])


def read(file: RecordFile, number: int) -> bytes | None:
    buffer = bytearray(file.begins[number + 1] - file.begins[number])
    return bytes(buffer) if file.read_into(number, memoryview(buffer)) else None


@pytest.fixture
def file(tmp_path: Path) -> Iterator[RecordFile]:
    """A file with records 2, 3 and 9."""
    made = opened(tmp_path)
    for number in (9, 2, 3):
        made.write(number, content(made, number))
    yield made
    made.close()


@pytest.mark.parametrize("records", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_records_are_read_back_in_any_order_and_by_other_processes(tmp_path: Path, records: Records) -> None:
    file, other = opened(tmp_path, records), opened(tmp_path, records)
    for number in (3, 0):
        file.write(number, content(file, number))
    assert [read(other, number) for number in range(4)] == [content(file, 0), None, None, content(file, 3)]
    assert read(pickle.loads(pickle.dumps(file)), 3) == content(file, 3)
    assert (other.written(), len(other), other.about) == (2, records.count, {"of": "a test"})


def test_a_record_of_zeros_is_a_record(file: RecordFile) -> None:
    file.write(0, bytes(12))
    assert read(file, 0) == bytes(12)


def test_people_can_read_what_a_file_holds(file: RecordFile) -> None:
    about = json.dumps({"of": "a test"}).encode()
    assert file.path.read_bytes()[HEADER.size :].startswith(about)


def test_records_that_are_not_written_take_no_space(tmp_path: Path) -> None:
    state = opened(tmp_path, Records(count=10_000, lengths=4000)).path.stat()
    assert state.st_size > 40_000_000
    assert state.st_blocks * 512 < 100_000


@pytest.mark.parametrize("offset", [0, 7, 11])
@pytest.mark.parametrize("part", ["checksum", "record"])
def test_a_record_with_a_changed_byte_is_missing(file: RecordFile, part: str, offset: int) -> None:
    place = offset + (file.begins[2] if part == "record" else file._checksums + 2 * 16)
    changed = bytearray(file.path.read_bytes())
    changed[place] ^= 0x40
    file.path.write_bytes(changed)
    assert read(file, 2) is None
    assert read(file, 3) is not None
    file.write(2, content(file, 2))
    assert read(file, 2) == content(file, 2)


def test_no_pair_of_flipped_bits_is_believed(tmp_path: Path) -> None:
    file = opened(tmp_path, Records(count=2, lengths=240))
    file.write(0, content(file, 0))
    words = np.frombuffer(content(file, 0), np.uint32)
    random = np.random.default_rng(0)
    with file.path.open("r+b", buffering=0) as raw:
        for turn in range(600):
            data = words.copy()
            bit = np.uint32(1 << 31 if turn % 2 else 1 << int(random.integers(32)))  # every second time the signs
            data[random.choice(60, 2, replace=False)] ^= bit
            raw.seek(file.begins[0])
            raw.write(data.tobytes())
            assert read(file, 0) is None


@pytest.mark.parametrize("with_checksums", [False, True])
def test_records_that_change_places_are_missing(file: RecordFile, with_checksums: bool) -> None:
    changed = bytearray(file.path.read_bytes())
    for start, size in ((file.begins[2], 12), *([(file._checksums + 32, 16)] if with_checksums else [])):
        one, other = changed[start : start + size], changed[start + size : start + 2 * size]
        changed[start : start + 2 * size] = other + one
    file.path.write_bytes(changed)
    assert (read(file, 2), read(file, 3)) == (None, None)


@pytest.mark.parametrize("size", [0, 9, 200, -7])
def test_a_file_that_is_cut_while_open_has_lost_records_and_can_be_written(file: RecordFile, size: int) -> None:
    os.truncate(file.path, size % file.begins[-1])
    assert read(file, 9) is None
    file.write(9, content(file, 9))
    assert read(file, 9) == content(file, 9)


HUGE = HEADER.pack(record_file.MAGIC, 2**62, 8, 10, b"")
DAMAGE = {
    "empty": lambda old: b"",
    "something else": lambda old: b"something else",
    "cut": lambda old: old[:-1],
    "longer": lambda old: old + b"\0",
    "another version": lambda old: b"FROSTRF0" + old[8:],
    "a changed description": lambda old: old.replace(b"a test", b"a tent"),
    "a changed length": lambda old: old[: HEADER.size + 16] + b"\1" + old[HEADER.size + 17 :],
    "impossible sizes": lambda old: HUGE + old[len(HUGE) :],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_corrupt_file_is_recognised_and_created_again(file: RecordFile, damage: str) -> None:
    file.path.write_bytes(DAMAGE[damage](file.path.read_bytes()))
    with pytest.raises(ValueError, match=r"corrupt|another size"):
        RecordFile(file.path, advice="")
    again = opened(file.path.parent)
    assert again.written() == 0
    again.write(1, content(again, 1))
    assert opened(file.path.parent).written() == 1


def test_a_file_with_another_description_is_created_again(file: RecordFile) -> None:
    assert opened(file.path.parent).written() == 3
    assert opened(file.path.parent, of="another").written() == 0


def test_a_full_disk_is_an_error_and_the_record_is_missing(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= file.begins[5]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:5], offset)  # a little at a time

    monkeypatch.setattr(os, "pwrite", full)
    file.write(4, content(file, 4))
    with pytest.raises(OSError, match="No space"):
        file.write(5, content(file, 5))
    assert (read(file, 4), read(file, 5)) == (content(file, 4), None)


def test_a_file_that_may_only_be_read_is_read(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    shared = opened(file.path.parent)
    assert read(shared, 2) == content(file, 2)
    with pytest.raises(OSError, match="Bad file descriptor"):
        shared.write(2, content(file, 2))


def write_for_ever(folder: Path) -> None:
    file = opened(folder, Records(count=64, lengths=200_000))
    while True:
        for number in range(64):
            file.write(number, content(file, number))


def test_a_killed_writer_leaves_no_wrong_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=write_for_ever, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    end = time.monotonic() + 60
    file = opened(tmp_path, Records(count=64, lengths=200_000))
    while file.written() < 32 and time.monotonic() < end:
        time.sleep(0.01)
    for writer in writers:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    found = [number for number in range(64) if read(file, number) is not None]
    assert len(found) >= 16
    assert all(read(file, number) == content(file, number) for number in found)


def open_and_count(folder: Path, queue: "multiprocessing.Queue[int]") -> None:
    queue.put(opened(folder).path.stat().st_ino)


def test_processes_that_start_together_create_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    queue = context.Queue()
    workers = [context.Process(target=open_and_count, args=(tmp_path / "new", queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert len({queue.get(timeout=60) for _ in workers}) == 1
    for worker in workers:
        worker.join()


def test_a_checksum_depends_on_the_number() -> None:
    assert checksum(bytes(range(16)), seed=0) != checksum(bytes(range(16)), seed=1)
