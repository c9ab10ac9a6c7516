"""What the checks of frostline's promises cost on one core: prints a table for docs/benchmarks-history.md.

OMP_NUM_THREADS=1 python scripts/benchmark/checks.py
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

from frostline.data.files import FileImages, LabelledFile
from frostline.freezing import FreezePolicy, apply_phase
from frostline.freezing.checks import fingerprints
from frostline.prefix.store import Rows, open_store


def milliseconds(work: Callable[[], object], times: int = 9) -> float:
    """The shortest of several runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1000 * min(taken)


def modes() -> float:
    """Milliseconds a forward of a ResNet-18's batch norms takes longer where their modes are held."""
    norms = nn.Sequential(*(nn.BatchNorm2d(4) for _ in range(20)))
    inputs = torch.zeros(1, 4, 1, 1)
    free = milliseconds(lambda: norms.eval()(inputs), 99)
    apply_phase(norms, FreezePolicy.static("19.*").resolve(norms).phases[0])
    return milliseconds(lambda: norms.eval()(inputs), 99) - free


def main() -> None:
    torch.set_num_threads(1)
    network = torchvision.models.resnet18()
    names = [*dict(network.named_parameters()), *dict(network.named_buffers())]
    print("| check | cost |\n|---|---:|")
    print(f"| fingerprints of a ResNet-18, 47 MB | {milliseconds(lambda: fingerprints(network, names)):.1f} ms |")
    print(f"| the modes of 20 batch norms, each step | {modes():.3f} ms |")
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{number}.jpg" for number in range(1000)]
        for path in paths:
            Path(path).write_bytes(os.urandom(1000))
        time.sleep(0.1)
        images = FileImages([LabelledFile(path, 0) for path in paths])
        print(f"| the identity of 1,000 files | {milliseconds(lambda: images.identity):.1f} ms |")
        for shape in ((512,), (64, 56, 56)):
            rows = Rows(count=256, shape=shape, dtype="bfloat16", strides=torch.empty(shape).stride())
            store = open_store(Path(folder), key=str(len(shape)), rows=rows, limit_bytes=10**9, about={})
            store.write(np.arange(256), torch.zeros(256, *shape, dtype=torch.bfloat16))
            places = np.random.default_rng(0).permutation(256)[:64]
            took = milliseconds(lambda store=store, places=places: store.read(places)) / 64
            print(f"| reading a cached row of {rows.row_bytes:,} bytes, check included | {1000 * took:.1f} µs |")


if __name__ == "__main__":
    main()
