"""Run per-image transforms on one thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside, as it does in a loader's worker.

    An image's transforms are dozens of operations of a few microseconds, and sharing each among threads costs more than
    it saves: on two busy cores a random crop with colour changes took 4 ms of processor time per image on one thread,
    and 20 to 39 ms on two, most of it spent waiting for each other. Setting the number costs less than a microsecond.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
