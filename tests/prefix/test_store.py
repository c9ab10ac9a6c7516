"""The feature store: rows come back bit for bit and with the strides they had."""

from pathlib import Path

import numpy as np
import pytest
import torch

from frostline.prefix.store import FeatureStore, Rows, open_store

GB = 10**9


def rows_of(count: int, *shape: int, dtype: str = "float32") -> Rows:
    """Rows without gaps, in row-major order."""
    return Rows(count=count, shape=shape, dtype=dtype, strides=torch.empty(shape, device="meta").stride())


ROWS = rows_of(10, 3, 2, dtype="bfloat16")


def opened(root: Path, key: str = "key", rows: Rows = ROWS, limit: int = GB) -> FeatureStore:
    return open_store(root, key=key, rows=rows, limit_bytes=limit, about={"of": "a test"})


def places(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


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
    assert torch.equal(opened(tmp_path, rows=rows).read(places(0))[0], features[[1]])


def test_a_new_store_is_empty(tmp_path: Path) -> None:
    read, found = opened(tmp_path).read(places(0, 9))
    assert (read.shape, read.dtype, found.any()) == ((0, 3, 2), torch.bfloat16, False)


LAYOUTS = {
    "contiguous": torch.randn(3, 2, 4, 5),
    "channels last": torch.randn(3, 2, 4, 5).contiguous(memory_format=torch.channels_last),
    "one pixel": torch.randn(3, 8, 1, 1),
    "one pixel, channels last": torch.randn(3, 8, 1, 1).as_strided((3, 8, 1, 1), (8, 1, 8, 8)),
    "transposed": torch.randn(3, 5, 4).transpose(1, 2),
    "of odd size": torch.randn(3, 5, 3, 3).bfloat16().contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_read_with_the_strides_they_were_written_with(tmp_path: Path, layout: str) -> None:
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


def test_a_corrupt_row_is_missing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(places(2, 3), torch.ones(2, 3, 2, dtype=torch.bfloat16))
    changed = bytearray(store.path.read_bytes())
    changed[store.file.begins[2]] ^= 1
    store.path.write_bytes(changed)
    assert store.read(places(2, 3))[1].tolist() == [False, True]


def test_rows_of_another_form_are_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(ValueError, match="float32"):
        store.write(places(0), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match=r"\(1, 2, 3\)"):
        store.write(places(0), torch.zeros(1, 2, 3, dtype=torch.bfloat16))


def test_a_store_over_the_limit_or_larger_than_the_disk_is_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"they would take 0\.4 kB, more than the limit of 0\.1 kB"):
        opened(tmp_path, limit=100)
    with pytest.raises(OSError, match="the disk has"):
        opened(tmp_path, rows=rows_of(10**9, 10**6), limit=10**18)
    assert not list(tmp_path.glob("*.features"))


def test_the_least_recently_used_store_that_is_not_in_use_is_evicted(tmp_path: Path) -> None:
    limit = 2 * opened(tmp_path, "a").path.stat().st_size
    used = opened(tmp_path, "a", limit=limit)
    opened(tmp_path, "b", limit=limit).close()
    last = opened(tmp_path, "c", limit=limit)
    assert sorted(path.stem for path in tmp_path.glob("*.features")) == ["a", "c"]
    used.write(places(0), torch.ones(1, 3, 2, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="in use"):
        opened(tmp_path, "d", limit=limit)
    last.close()


def test_stores_of_format_2_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("about.json", "features", "checksums", "in_use"):
        (tmp_path / "old" / name).write_text("{}")
    (tmp_path / "mine").mkdir()
    opened(tmp_path)
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "mine").exists()
