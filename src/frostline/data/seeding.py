"""What a sample is computed under: a seed that depends on what it is for and on nothing else, and one thread."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stable_seed(*key: int | str) -> int:
    """A seed in [0, 2**63) that is a pure function of the key, the same in every process and on every machine.

    Python's own `hash` is salted per process, and a sum such as `seed + epoch` gives seed 0, epoch 1 the same numbers
    as seed 1, epoch 0.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Inside, torch's generator of the CPU draws what `torch.manual_seed(stable_seed(*key))` would let it draw; after,
    it is where it was.

    `torch.random.fork_rng` and `torch.manual_seed` do that for every device: a quarter of a millisecond, for each
    image, and the GPU's generator is seeded and not restored.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(stable_seed(*key))
    try:
        yield
    finally:
        generator.set_state(state)


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
