"""Features on disk: what was written is read, and what is torn is not there."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from frostline.prefix.store import CHECKSUMS, FEATURES, FeatureStore, Rows, checksum, gigabytes, open_store

GB = 10**9


def rows_of(count: int, *shape: int, dtype: str = "float32") -> Rows:
    """Rows without gaps, in row-major order."""
    return Rows(count=count, shape=shape, dtype=dtype, strides=torch.empty(shape, device="meta").stride())


ROWS = rows_of(10, 3, 2, dtype="bfloat16")


def opened(root: Path, key: str = "key", rows: Rows = ROWS, limit: int = GB) -> FeatureStore:
    return open_store(root, key=key, rows=rows, limit_bytes=limit, about={"of": "a test"})


def places(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_a_row_has_whole_words() -> None:
    assert ROWS.row_bytes == 16  # 12, filled up
    assert rows_of(2000, 512, dtype="bfloat16").total_bytes == 2000 * (1024 + 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_rows_come_back_to_the_bit_in_any_order(tmp_path: Path, dtype: str) -> None:
    rows = rows_of(7, 5, dtype=dtype)
    store = opened(tmp_path, rows=rows)
    features = torch.randn(4, 5, dtype=getattr(torch, dtype))
    store.write(places(6, 0, 3, 5), features)
    read, found = store.read(places(5, 1, 6))
    assert found.tolist() == [True, False, True]
    assert torch.equal(read, features[[3, 0]])
    assert store.written() == 4


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    read, found = opened(tmp_path).read(places(0, 9))
    assert read.shape == (0, 3, 2)
    assert read.dtype == torch.bfloat16
    assert not found.any()


LAYOUTS = {
    "contiguous": torch.randn(3, 2, 4, 5),
    "channels last": torch.randn(3, 2, 4, 5).contiguous(memory_format=torch.channels_last),
    "one pixel": torch.randn(3, 8, 1, 1),
    "one pixel, channels last": torch.randn(3, 8, 1, 1).as_strided((3, 8, 1, 1), (8, 1, 8, 8)),
    "transposed": torch.randn(3, 5, 4).transpose(1, 2),
    "of odd size": torch.randn(3, 5, 3, 3).bfloat16().contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_read_lies_in_memory_as_what_was_written(tmp_path: Path, layout: str) -> None:
    features = LAYOUTS[layout]
    strides = features.stride()[1:]
    dtype = str(features.dtype).removeprefix("torch.")
    rows = Rows(count=3, shape=tuple(features.shape[1:]), dtype=dtype, strides=strides)
    store = opened(tmp_path, rows=rows)
    store.write(places(2, 0, 1), features)
    read = store.read(places(2, 0, 1))[0]
    assert torch.equal(read, features)
    assert read.stride() == features.stride()
    assert opened(tmp_path, rows=rows).written() == 3
    store.write(places(0, 1, 2), features.contiguous())
    assert store.read(places(0, 1, 2))[0].stride() == features.stride()


@pytest.mark.parametrize("file", [FEATURES, CHECKSUMS])
@pytest.mark.parametrize("size", [0, 9])
def test_a_file_that_is_cut_while_it_is_open_has_lost_rows(tmp_path: Path, file: str, size: int) -> None:
    store = opened(tmp_path, rows=rows_of(3000, 4))
    store.write(places(0, 2999), torch.ones(2, 4))
    os.truncate(store.folder / file, size)
    assert not store.read(places(2999))[1].any()
    store.write(places(2999), torch.ones(1, 4))
    assert store.read(places(2999))[1].all()


def test_no_pair_of_flipped_bits_is_believed(tmp_path: Path) -> None:
    store = opened(tmp_path, rows=rows_of(2, 60))
    store.write(places(0, 1), torch.randn(2, 60))
    whole = (store.folder / FEATURES).read_bytes()
    random = np.random.default_rng(0)
    for turn in range(600):
        data = np.frombuffer(whole, np.uint32).copy()
        one, other = random.choice(60, 2, replace=False)
        bit = np.uint32(1 << 31 if turn % 2 else 1 << int(random.integers(32)))  # every second time the signs
        data[[one, other]] ^= bit
        (store.folder / FEATURES).write_bytes(data.tobytes())
        assert store.read(places(0, 1))[1].tolist() == [False, True], (one, other, bit)


@pytest.mark.parametrize("edit", ["swap two rows", "copy a row", "swap two values", "negate", "permute", "zero"])
def test_no_edit_of_a_row_is_believed(tmp_path: Path, edit: str) -> None:
    store = opened(tmp_path, rows=rows_of(2, 60))
    store.write(places(0, 1), torch.randn(2, 60))
    data = np.memmap(store.folder / FEATURES, dtype=np.float32, mode="r+", shape=(2, 60))
    if edit == "swap two rows":
        data[:] = data[::-1].copy()
    elif edit == "copy a row":
        data[0] = data[1]
    elif edit == "swap two values":
        data[0, [3, 40]] = data[0, [40, 3]]
    elif edit == "negate":
        data[0, 1::2] *= -1
    elif edit == "permute":
        data[0] = data[0, ::-1].copy()
    else:
        data[0, 7:] = 0
    assert not store.read(places(0))[1].any()


def test_a_store_of_an_older_format_is_made_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(places(1), torch.ones(1, 3, 2, dtype=torch.bfloat16))
    about = json.loads((store.folder / "about.json").read_text())
    (store.folder / "about.json").write_text(json.dumps({**about, "format": 1}))
    assert opened(tmp_path).written() == 0


def test_another_process_s_store_is_the_same_one(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    features = torch.randn(1, 3, 2, dtype=torch.bfloat16)
    one.write(places(4), features)
    assert torch.equal(other.read(places(4))[0], features)


@pytest.mark.parametrize("file", [FEATURES, CHECKSUMS])
@pytest.mark.parametrize("offset", [0, 7, 15])
def test_a_row_with_a_changed_byte_is_not_there(tmp_path: Path, file: str, offset: int) -> None:
    store = opened(tmp_path)
    store.write(places(2, 3), torch.ones(2, 3, 2, dtype=torch.bfloat16))
    width = ROWS.row_bytes if file == FEATURES else 8
    with (store.folder / file).open("r+b") as data:
        data.seek(2 * width + offset % width)
        byte = data.read(1)[0]
        data.seek(-1, os.SEEK_CUR)
        data.write(bytes([byte ^ 0x40]))
    assert store.read(places(2, 3))[1].tolist() == [False, True]
    store.write(places(2), torch.ones(1, 3, 2, dtype=torch.bfloat16))
    assert store.read(places(2, 3))[1].all()


def test_a_row_in_another_row_s_place_is_not_there() -> None:
    row = memoryview(bytes(range(16)))
    assert checksum(row, 0) != checksum(row, 1)


def test_a_row_of_zeros_is_there(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(places(0), torch.zeros(1, 3, 2, dtype=torch.bfloat16))
    assert store.read(places(0))[1].all()


@pytest.mark.parametrize("file", [FEATURES, CHECKSUMS, "about.json"])
def test_a_torn_store_is_made_anew(tmp_path: Path, file: str) -> None:
    store = opened(tmp_path)
    store.write(places(1), torch.ones(1, 3, 2, dtype=torch.bfloat16))
    os.truncate(store.folder / file, 9)
    again = opened(tmp_path)
    assert again.written() == 0
    again.write(places(1), torch.ones(1, 3, 2, dtype=torch.bfloat16))
    assert opened(tmp_path).written() == 1


@pytest.mark.parametrize("about", ["[1]", "null", "[" * 100_000, "dtype", "shape", "\0"], ids=lambda text: text[:9])
def test_a_store_whose_description_is_damaged_is_made_anew(tmp_path: Path, about: str) -> None:
    path = opened(tmp_path).folder / "about.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, about: "gloat16"}) if about in described else about)
    with pytest.raises(ValueError, match=r"about\.json|Expecting value"):
        FeatureStore(path.parent)
    assert opened(tmp_path).rows == ROWS


def test_a_store_that_lacks_a_file_is_made_anew_in_silence(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    (opened(tmp_path).folder / "in_use").unlink()
    assert opened(tmp_path).rows == ROWS
    assert (capsys.readouterr().err, len(recwarn)) == ("", 0)


def test_rows_of_another_form_are_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(ValueError, match="float32"):
        store.write(places(0), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match=r"\(1, 2, 3\)"):
        store.write(places(0), torch.zeros(1, 2, 3, dtype=torch.bfloat16))


def test_rows_that_nobody_wrote_take_no_space(tmp_path: Path) -> None:
    store = opened(tmp_path, rows=rows_of(10_000, 1000))
    state = (store.folder / FEATURES).stat()
    assert state.st_size == 40_000_000
    assert state.st_blocks * 512 < 100_000


def test_too_much_is_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"they would take 0\.2 kB, more than the limit of 0\.1 kB"):
        opened(tmp_path, limit=100)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_more_than_the_disk_has_is_refused(tmp_path: Path) -> None:
    rows = rows_of(10**9, 10**6)
    with pytest.raises(ValueError, match="the disk has"):
        opened(tmp_path, rows=rows, limit=10**18)


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    limit = 3 * ROWS.total_bytes
    for key in ("a", "b", "c"):
        opened(tmp_path, key, limit=limit).close()
        time.sleep(0.02)
    opened(tmp_path, "a", limit=limit).close()  # used again
    opened(tmp_path, "d", limit=limit).close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "c", "d"]


def test_what_is_in_use_does_not_make_room(tmp_path: Path) -> None:
    limit = 2 * ROWS.total_bytes
    used = opened(tmp_path, "a", limit=limit)
    opened(tmp_path, "b", limit=limit).close()
    opened(tmp_path, "c", limit=limit)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "c"]
    used.write(places(0), torch.ones(1, 3, 2, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="in use"):
        opened(tmp_path, "e", rows=rows_of(15, 3, 2, dtype="bfloat16"), limit=limit)


def test_a_full_disk_is_an_error_and_the_row_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, write = opened(tmp_path), os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= 2 * ROWS.row_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:5], offset)  # a little at a time

    monkeypatch.setattr(os, "pwrite", full)
    features = torch.randn(2, 3, 2, dtype=torch.bfloat16)
    with pytest.raises(OSError, match="No space"):
        store.write(places(1, 2), features)
    monkeypatch.undo()
    read, found = store.read(places(1, 2))
    assert found.tolist() == [True, False]
    assert torch.equal(read[0], features[0])


def write_for_ever(root: Path) -> None:
    store = opened(root, rows=rows_of(64, 50_000))
    while True:
        for place in range(64):
            store.write(places(place), torch.full((1, 50_000), float(place)))


def test_a_writer_that_is_killed_leaves_no_wrong_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_for_ever, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    rows = rows_of(64, 50_000)
    end = time.monotonic() + 60
    store = opened(tmp_path, rows=rows)
    while store.written() < 32 and time.monotonic() < end:
        time.sleep(0.01)
    for writer in writers:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    read, found = opened(tmp_path, rows=rows).read(places(*range(64)))
    assert found.sum() >= 16
    assert torch.equal(read, torch.arange(64.0)[torch.from_numpy(found)].unsqueeze(1).expand(-1, 50_000))


def test_people_can_read_what_a_store_holds(tmp_path: Path) -> None:
    about = json.loads((opened(tmp_path).folder / "about.json").read_text())
    expected = {"format": 2, "count": 10, "shape": [3, 2], "dtype": "bfloat16", "strides": [2, 1], "of": "a test"}
    assert about == expected


def test_gigabytes() -> None:
    assert [gigabytes(count) for count in (1_000, 2_500_000, 3 * GB)] == ["1.0 kB", "2.5 MB", "3.0 GB"]
