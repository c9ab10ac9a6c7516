"""Seeds that depend on what they are for, and on nothing else."""

import hashlib


def stable_seed(*key: int | str) -> int:
    """A seed in [0, 2**63) that is a pure function of the key, the same in every process and on every machine.

    Python's own `hash` is salted per process, and a sum such as `seed + epoch` gives seed 0, epoch 1 the same numbers
    as seed 1, epoch 0.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
