"""How loaders in any process learn which store is in use."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import torch

from frostline.prefix.shared_store import SharedStoreHandle
from frostline.prefix.store import Rows, open_store


def store(root: Path, key: str):
    rows = Rows(count=4, shape=(2,), dtype="float32", strides=(1,))
    return open_store(root, key=key, rows=rows, limit_bytes=10**9, about={})


def test_a_handle_is_empty_at_first_and_generations_count(tmp_path: Path) -> None:
    handle = SharedStoreHandle()
    first, found = handle.get()
    assert found is None
    handle.put(store(tmp_path, "a"))
    second, found = handle.get()
    assert found.path.stem == "a"
    handle.put(None)
    third, found = handle.get()
    assert found is None
    assert first < second < third


def answer(handle: SharedStoreHandle, asked, answers) -> None:
    while asked.get():
        generation, found = handle.get()
        answers.put((generation, None if found is None else found.path.stem))


def test_another_process_sees_the_change(tmp_path: Path) -> None:
    for method in ("fork", "forkserver"):
        context = multiprocessing.get_context(method)
        asked, answers, handle = context.Queue(), context.Queue(), SharedStoreHandle()
        process = context.Process(target=answer, args=(handle, asked, answers))
        process.start()
        for key in (None, "a", "b", None, "a"):
            handle.put(None if key is None else store(tmp_path, key))
            asked.put(True)
            assert answers.get(timeout=60) == (handle.get()[0], key)
        asked.put(False)
        process.join()


def test_a_deleted_store_counts_as_none(tmp_path: Path) -> None:
    handle = SharedStoreHandle()
    handle.put(store(tmp_path, "a"))
    context = multiprocessing.get_context("forkserver")
    asked, answers = context.Queue(), context.Queue()
    (tmp_path / "a.features").rename(tmp_path / "gone")
    process = context.Process(target=answer, args=(handle, asked, answers))
    process.start()
    asked.put(True)
    assert answers.get(timeout=60)[1] is None
    asked.put(False)
    process.join()
    # A process that had it open continues with it.
    handle.get()[1].write(np.array([0]), torch.ones(1, 2))
    assert handle.get()[1].written() == 1


def test_a_pickled_handle_opens_the_store_itself(tmp_path: Path) -> None:
    handle = SharedStoreHandle()
    handle.put(store(tmp_path, "a"))
    assert set(handle.__getstate__()) == {"_path", "_generation"}
    assert pickle.loads(pickle.dumps(handle)).get()[1].path.stem == "a"
