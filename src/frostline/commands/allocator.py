"""Make glibc's allocator keep freed memory."""

import ctypes
import sys

# mallopt's parameters, from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next allocations.

    glibc takes every large activation from the kernel by mmap and gives it back at once; the kernel then has to zero
    and map each of its pages again: between 1 and 30 % of a ResNet's forward pass on a CPU, as the machine is
    (docs/benchmarks-history.md). No result changes. What the process has freed counts as its own until it ends.

    Returns:
        Whether it took; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST), (M_MMAP_MAX, 0))
    took = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(took)
