"""One point of a scaling series, in a process of its own.

Usage: python scripts/benchmark/scaling_points.py KIND '{"images": 1000, …}'

Prints one JSON object. Seconds are of processor time, this process's and its workers'. `peak_mb` is the largest
resident set, which counts the pages of a memory-mapped store that were read; `own_mb` is what of it is the process's
own (anonymous) memory and cannot be dropped; both since the process began, imports included.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by its path, Python looks in this folder only

import numpy as np
import torch

BATCH, IMAGE_SIZE, FILLED_AT_ONCE = 32, 64, 2000
Point = dict[str, float]


def memory(name: str) -> float:
    """Of /proc/self/status, in MB: `VmHWM`, the largest resident set; `RssAnon`, the process's own memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"this system does not tell {name}")


def processor_seconds() -> float:
    """Of this process and its living children."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:13])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def aside(work: Callable[[], object]) -> None:
    """Do it in a child, so that it adds nothing to this process's memory or time."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"the preparation ended with {child.exitcode}")


def train(*, images: int, classes: int, workers: int, epochs: int) -> Point:
    """Epochs of head-only training through ImageDataModule and FastPath, every feature read back from the cache.

    A first fit, in a child, opens the store that this run will ask for; after its first batch it writes random
    features into all rows with `FeatureStore.write`, so that no prefix has to be computed.
    """
    import lightning.pytorch as pl

    from frostline.classifier import ImageClassifier
    from frostline.commands.allocator import keep_freed_memory
    from frostline.data.datamodule import ImageDataModule
    from frostline.data.loading import Loading
    from frostline.data.synthetic import Synthetic
    from frostline.data.transforms import Augmentation
    from frostline.freezing.policy import FreezePolicy
    from frostline.models.network import build_network
    from frostline.options import ComputeOptions, FeatureCache, TrainingOptions

    class Fill(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            store = pl_module._fast_path._datasets["train"].handle.get()[1]
            random = torch.Generator().manual_seed(0)
            for start in range(0, images, FILLED_AT_ONCE):
                places = np.arange(start, min(images, start + FILLED_AT_ONCE))
                features = torch.rand(len(places), *store.rows.shape, generator=random)
                store.write(places, features.to(store.rows.torch_dtype))

    class Measure(pl.Callback):
        def __init__(self) -> None:
            self.cpu: list[float] = []
            self.wall: list[float] = []
            self.own = 0.0

        def on_train_epoch_start(self, *_: Any) -> None:
            self.start = processor_seconds(), time.perf_counter()

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int) -> None:
            if index % 100 == 0:
                self.own = max(self.own, memory("RssAnon"))

        def on_train_epoch_end(self, *_: Any) -> None:
            self.cpu.append(processor_seconds() - self.start[0])
            self.wall.append(time.perf_counter() - self.start[1])

    def fit(folder: Path, *, callback: pl.Callback, limit: int, workers: int) -> dict[str, Any]:
        torch.manual_seed(0)
        source = Synthetic(length=images, val_length=0, test_length=0, classes=classes, image_size=IMAGE_SIZE)
        data = ImageDataModule(
            source=source, image_size=IMAGE_SIZE, batch_size=BATCH, augment=Augmentation(name="none"),
            loading=Loading(workers=workers),
        )  # fmt: skip
        network, _ = build_network(model={"name": "resnet18"}, head={"name": "linear"}, classes=classes)
        compute = ComputeOptions(feature_cache=FeatureCache(folder=folder))
        classifier = ImageClassifier(
            network=network,
            data_spec=data.spec,
            policy=FreezePolicy.static("head"),
            training=TrainingOptions(optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9)),
            compute=compute,
        )
        trainer = pl.Trainer(
            max_epochs=epochs, max_steps=limit, accelerator="cpu", devices=1, precision="bf16-mixed", logger=False,
            callbacks=[callback], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(classifier, datamodule=data)
        return classifier.feature_facts()

    warnings.filterwarnings("ignore")
    keep_freed_memory()
    measured = Measure()
    with tempfile.TemporaryDirectory() as folder:
        aside(lambda: fit(Path(folder), callback=Fill(), limit=1, workers=0))
        facts = fit(Path(folder), callback=measured, limit=-1, workers=workers)["train"]
    steps = images // BATCH  # an epoch drops the last batch where it is not full
    if facts["computed"] or facts["read"] != epochs * steps * BATCH:
        raise RuntimeError(f"not all features were read back: {facts}")
    return {
        "epoch_s": min(measured.cpu[1:]),
        "epoch_wall_s": min(measured.wall[1:]),
        "first_epoch_s": measured.cpu[0],
        "step_ms": 1000 * min(measured.cpu[1:]) / steps,
        "peak_mb": memory("VmHWM"),
        "own_mb": measured.own,
    }


def resolution(*, side: int, repeats: int) -> Point:
    """The frozen prefix of head-only training, a batch of 16 in bf16 and channels-last."""
    from torchvision.models import resnet18

    from frostline.commands.allocator import keep_freed_memory
    from frostline.freezing.apply import apply_phase
    from frostline.freezing.policy import FreezePolicy
    from frostline.prefix.split_model import split_at_frost_line

    keep_freed_memory()
    torch.manual_seed(0)
    network = resnet18(num_classes=10).to(memory_format=torch.channels_last)
    phase = FreezePolicy.static("head").resolve(network).phases[0]
    apply_phase(network, phase)
    line = split_at_frost_line(network, trainable=phase.trainable, held=phase.eval_modules)
    assert line is not None
    images = torch.rand(16, 3, side, side).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            line.prefix(images)
        times.append(time.process_time() - start)
    return {"image_ms": 1000 * min(times[1:]) / len(images), "peak_mb": memory("VmHWM")}


def reading(*, shape: list[int], rows: int, batches: int) -> Point:
    """Random batches from a full store in the page cache."""
    from frostline.commands.allocator import keep_freed_memory
    from frostline.prefix.store import FeatureStore, Rows, open_store
    from frostline.storage.record_file import RecordFile

    keep_freed_memory()
    strides = torch.empty(shape, device="meta").stride()
    about = Rows(count=rows, shape=tuple(shape), dtype="bfloat16", strides=strides)
    with tempfile.TemporaryDirectory() as folder:

        def fill() -> None:
            store = open_store(Path(folder), key="rows", rows=about, limit_bytes=10**11, about={})
            once = max(1, int(2e7) // about.row_bytes)
            start_s = time.process_time()
            for start in range(0, rows, once):
                places = np.arange(start, min(rows, start + once))
                store.write(places, torch.rand(len(places), *shape).to(torch.bfloat16))
            (Path(folder) / "write_s").write_text(str(time.process_time() - start_s))

        aside(fill)
        file = Path(folder) / "rows.features"
        store, total = FeatureStore(RecordFile(file, advice="")), file.stat().st_size
        random = np.random.default_rng(0)
        places = [random.integers(0, rows, BATCH) for _ in range(batches)]
        times = []
        for _ in range(6):  # the first of which fetches the pages
            start = time.process_time()
            for each in places:
                if not store.read(each)[1].all():
                    raise RuntimeError("a row is corrupt")
            times.append((time.process_time() - start) / batches / BATCH)
        row_s = min(times[1:])
    return {
        "row_us": 1e6 * row_s, "row_bytes": about.row_bytes, "total_bytes": total,
        "read_mb_per_s": about.row_bytes / row_s / 1e6, "peak_mb": memory("VmHWM"), "own_mb": memory("RssAnon"),
    }  # fmt: skip


def loading(*, folder: str, workers: int) -> Point:
    """Epochs of a loader that decodes JPEGs, without a network; workers are started in the first."""
    from frostline.commands.allocator import keep_freed_memory
    from frostline.data.datamodule import ImageDataModule
    from frostline.data.image_folder import ImageFolder
    from frostline.data.loading import Loading
    from frostline.data.transforms import Augmentation

    keep_freed_memory()
    data = ImageDataModule(
        source=ImageFolder(path=Path(folder)), image_size=224, resize=256 / 224, batch_size=BATCH,
        augment=Augmentation(name="none"), loading=Loading(workers=workers),
    )  # fmt: skip
    loader = data.train_dataloader()
    cpu, wall, images = [], [], 0
    for _ in range(4):
        start = processor_seconds(), time.perf_counter()
        images = sum(len(batch[0]) for batch in loader)
        cpu.append(processor_seconds() - start[0])
        wall.append(time.perf_counter() - start[1])
    return {
        "image_ms": 1000 * min(cpu[1:]) / images, "image_wall_ms": 1000 * min(wall[1:]) / images,
        "start_s": cpu[0] - min(cpu[1:]), "start_wall_s": wall[0] - min(wall[1:]), "peak_mb": memory("VmHWM"),
    }  # fmt: skip


KINDS: dict[str, Callable[..., Point]] = {
    "train": train, "resolution": resolution, "reading": reading, "loading": loading,
}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(KINDS[kind](**options)))


if __name__ == "__main__":
    main()
