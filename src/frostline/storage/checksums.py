"""The checksum of everything that frostline caches: XXH3-128, which takes 0.1 ms a megabyte."""

from collections.abc import Iterable

import xxhash

Content = bytes | bytearray | memoryview
SIZE = 16  # bytes


def checksum(content: Content, *, seed: int = 0) -> bytes:
    """The checksum of some bytes, `SIZE` bytes; never all zeros in practice (1 in 2**128)."""
    return xxhash.xxh3_128_digest(content, seed)


def fingerprint(parts: Iterable[Content]) -> str:
    """The checksum of the concatenated parts as 32 hexadecimal digits."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.hexdigest()
