"""What frostline's training loop costs beside a loop written by hand that takes the same steps, in turns in one run.

Usage: python scripts/benchmark/overhead.py [--blocks 6] [--steps 4] [--image-size 224] [--freeze none]
       [--small-size 32] [--small-steps 20] [--document docs/benchmarks-history.md] [KEY=VALUE …]

Three kinds of blocks of steps take turns inside one fit, so that a drift of the machine meets all alike: the Trainer's,
with everything that `python train.py` puts around a step; those of a loop written by hand over the same batches, with
the same network, layout, precision and optimizer; and those of the bare model on one batch that is ready for it. Images
are in memory, so that data is not the limit. KEY=VALUE are a run's overrides.

- overhead: (Trainer - by hand) / by hand, from medians of the blocks. Where a step takes a second, its spread hides an
  effect of milliseconds, so the overhead of a step is measured a second time in milliseconds, where steps are short
  (--small-size), and stated as a share of the long step: what a loop does around a step does not depend on the pixels.
- bare rate reached: bare / Trainer.

Each by the clock and in processor time. With --document the figures go between that file's markers.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by its path, Python looks in this folder only

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from scripts.benchmark.document import put_section
from torch.utils.data import DataLoader, Dataset

from frostline.commands.allocator import keep_freed_memory
from frostline.commands.build import build_classifier
from frostline.commands.help import default_config
from frostline.commands.run_log import quiet_libraries
from frostline.commands.trainer import build_trainer
from frostline.config.commands import TrainConfig
from frostline.data.datamodule import ImageDataModule
from frostline.data.source import LabelledImages

BATCH, CLASSES, DIFFERENT = 32, 10, 4
KINDS = ("trainer", "by hand", "bare")
Clocks = tuple[float, float]


class Memory(LabelledImages):
    """As many images as asked for, of which few differ."""

    def __init__(self, *, length: int, image_size: int) -> None:
        random = torch.Generator().manual_seed(0)
        size = (DIFFERENT * BATCH, 3, image_size, image_size)
        self.images = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
        self.length = length

    @property
    def labels(self) -> list[int]:
        return [index % CLASSES for index in range(self.length)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index % len(self.images)], index % CLASSES


class Source:
    """Training images only."""

    classes = tuple(str(label) for label in range(CLASSES))

    def __init__(self, images: Memory) -> None:
        self.images = images

    def dataset(self, split: str) -> Memory | None:
        return self.images if split == "train" else None


class Ready(Dataset):
    """Whole batches, as frostline's loader would give them."""

    def __init__(self, images: Memory) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = index % DIFFERENT * BATCH
        return self.images.images[start : start + BATCH], torch.arange(BATCH) % CLASSES


class ReadyData(ImageDataModule):
    """A datamodule whose batches cost nothing."""

    def train_dataloader(self) -> DataLoader:  # type: ignore[override]
        return DataLoader(Ready(self.source.dataset("train")), batch_size=None)


class Turns(pl.Callback):
    """Between two blocks of the Trainer's steps, takes the other kinds' blocks; keeps the time of all."""

    def __init__(self, *, steps: int) -> None:
        self.steps = steps
        self.blocks: dict[str, list[Clocks]] = {kind: [] for kind in KINDS}
        self._start: Clocks | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module: Any = pl_module
        options = trainer.optimizers[0].param_groups[0]
        self.network = copy.deepcopy(module.network)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=options["lr"], momentum=options["momentum"], fused=True)
        self.batches = iter(DataLoader(Ready(trainer.datamodule.source.dataset("train")), batch_size=None))
        self.fixed = module.normalised(next(self.batches)[0]).clone(memory_format=torch.preserve_format)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.steps:
            return
        if self._start is not None:
            self._keep("trainer", self._start)
        reduced = trainer.precision == "bf16-mixed"
        for kind in KINDS[1:]:
            start = clocks()
            for _ in range(self.steps):
                self._step(pl_module, bare=kind == "bare", reduced=reduced)
            self._keep(kind, start)
        self._start = clocks()

    def _step(self, module: Any, *, bare: bool, reduced: bool) -> None:
        if bare:
            pixels, labels = self.fixed, torch.arange(BATCH) % CLASSES
        else:
            images, labels = next(self.batches)
            pixels = module.normalised(images)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            loss = F.cross_entropy(self.network(pixels), labels)
        loss.backward()
        self.optimizer.step()
        loss.item()

    def _keep(self, kind: str, start: Clocks) -> None:
        now = clocks()
        self.blocks[kind].append(tuple((b - a) / self.steps for a, b in zip(start, now, strict=True)))


def clocks() -> Clocks:
    """Seconds of the clock, and of this process's processor time."""
    return time.perf_counter(), time.process_time()


def measure(*, blocks: int, steps: int, image_size: int, freeze: str, overrides: list[str]) -> dict[str, list[float]]:
    """Seconds of one step of each kind, by the clock and in processor time: medians over the blocks but the first."""
    total = steps * (blocks + 2)
    fixed = (f"freeze={freeze}", "model.weights=none", "optimizer.lr=0.01", "optimizer.weight_decay=0.0")
    length = ("trainer.max_epochs=1", f"trainer.max_steps={total}")
    # No feature cache: the steps are what is measured.
    composed = default_config("train", (*fixed, *length, "speed.feature_cache=false", *overrides))
    config = TrainConfig.model_validate(composed)
    torch.manual_seed(0)
    memory = Memory(length=total * BATCH, image_size=image_size)
    data = ReadyData(source=Source(memory), image_size=image_size, batch_size=BATCH)
    classifier, weights = build_classifier(config, data)
    turns = Turns(steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, folder=Path(folder), data=data, weights=weights)
        trainer.callbacks.append(turns)
        trainer.fit(classifier, datamodule=data)
    kept = {kind: taken[1 : blocks + 1] for kind, taken in turns.blocks.items()}
    return {
        kind: [statistics.median(each[clock] for each in taken) for clock in (0, 1)] for kind, taken in kept.items()
    }


def figures(long: dict[str, list[float]], short: dict[str, list[float]]) -> dict[str, Any]:
    """The shares, by the clock and in processor time; see the module's text."""
    names = ("wall", "cpu")
    found: dict[str, Any] = {
        name: {kind: [round(1000 * value, 2) for value in steps[kind]] for kind in KINDS}
        for name, steps in (("step_ms", long), ("short_step_ms", short))
    }
    for clock, name in enumerate(names):
        trainer, by_hand, bare = (long[kind][clock] for kind in KINDS)
        loop = short["trainer"][clock] - short["by hand"][clock]
        found[name] = {
            "overhead": trainer / by_hand - 1,
            "overhead_ms": 1000 * loop,
            "overhead_from_short_steps": loop / by_hand,
            "bare_rate_reached": bare / trainer,
        }
    return found


def text(found: dict[str, Any], *, setting: str) -> str:
    """The section of docs/benchmarks-history.md."""
    rows = [
        ("overhead of the loop, by blocks (target ≤ 1 %)", "overhead", "{:+.2%}"),
        ("a step's overhead, in milliseconds, where steps are short", "overhead_ms", "{:.2f}"),
        ("the same, as a share of the long step (target ≤ 1 %)", "overhead_from_short_steps", "{:+.2%}"),
        ("bare-model rate reached (target ≥ 90 %)", "bare_rate_reached", "{:.1%}"),
    ]
    lines = [
        "## What the training loop costs",
        "",
        "The Trainer with everything that `python train.py` puts around a step, a loop written by hand that takes the "
        "same steps (batch 32, the same network, layout, precision, optimizer and batches in memory), and the bare "
        "model on one ready batch, in turns in one process.",
        "",
        "| | by the clock | in processor time |",
        "|---|---:|---:|",
        *(f"| {title} | {form.format(found['wall'][k])} | {form.format(found['cpu'][k])} |" for title, k, form in rows),
        "",
        f"A long step takes {found['step_ms']['by hand'][0]:,.0f} ms by hand. {setting}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--freeze", default="none")
    parser.add_argument("--small-size", type=int, default=32)
    parser.add_argument("--small-steps", type=int, default=20)
    parser.add_argument("--document", type=Path)
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE of a run")
    options = parser.parse_args()
    quiet_libraries()
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    same = {"blocks": options.blocks, "freeze": options.freeze, "overrides": options.overrides}
    long = measure(steps=options.steps, image_size=options.image_size, **same)
    short = measure(steps=options.small_steps, image_size=options.small_size, **same)
    found = figures(long, short)
    print(json.dumps(found, indent=1))
    if options.document:
        setting = (
            f"freeze={options.freeze}, {options.image_size} px, short steps at {options.small_size} px, "
            f"{torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}: "
            f"`python scripts/benchmark/overhead.py --blocks {options.blocks} --steps {options.steps}`"
        )
        put_section(options.document, "overhead", text(found, setting=setting))


if __name__ == "__main__":
    main()
