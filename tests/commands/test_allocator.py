"""glibc's allocator keeps what it has: fewer page faults."""

import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from frostline.commands.allocator import keep_freed_memory

def faults():
    for _ in range(20):  # 64 MB: the heap grows a few times, until a piece of it fits
        torch.ones(16_000_000).sum()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16_000_000).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
assert keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    # 10 x 64 MB are 156,250 pages of 4 KiB, or 305 huge ones.
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, kept = map(int, done.stdout.split())
    assert before > 300
    assert kept < 30
