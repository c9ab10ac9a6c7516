"""A resumed run against the uninterrupted one, bit for bit: sources, workers, ranks, accumulation, interruptions.

Usage: OMP_NUM_THREADS=1 python scripts/freezing/resume_matrix.py [--only WORD]

Each combination trains a tiny network of three phases twice: once through, and once with the interruption, after which
it goes on from `last.ckpt` in another run folder. Weights, optimizer, metrics and phases at the end must be equal.
Prints a line for each combination that differs, and the counts; exit code 1 where one does.
"""

import argparse
import gc
import logging
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import nn

from frostline.classifier import ImageClassifier
from frostline.data.chunk_writer import ChunkWriter
from frostline.data.csv_table import CsvTable
from frostline.data.datamodule import ImageDataModule
from frostline.data.digits import Digits
from frostline.data.image_folder import ImageFolder
from frostline.data.loading import Loading
from frostline.data.random_noise import RandomNoise
from frostline.data.source import SPLITS, ArrayImages
from frostline.data.streaming import Streaming
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation
from frostline.freezing.policy import FreezePolicy
from frostline.options import ComputeOptions, FeatureCache, TrainingOptions
from frostline.resume import ExactResume
from frostline.tracking.checkpoints import AtomicCheckpointIO, checkpoint_callbacks

SIZE, BATCH, EPOCHS, BATCHES = 8, 4, 3, 5
SOURCES = ("synthetic", "digits", "random", "folder", "decoded_cache", "csv", "streaming", "own")
PLACES = (
    "inside an epoch",
    "inside an accumulation window",
    "at an epoch's end",
    "during validation",
    "at the last step",
)
WORKERS = ((0, True), (1, True), (1, False), (2, True), (2, False))
POLICY = FreezePolicy.from_dict(
    {
        "phases": [
            {"name": "head", "train": ["2.*"], "until": {"steps": 4}},
            {"name": "top", "train": ["1.*", "2.*"], "until": {"fraction": 0.3}},
            {"name": "all", "train": ["all"]},
        ]
    }
)


@dataclass(frozen=True)
class Case:
    """One combination."""

    source: str
    place: str
    workers: int
    persistent: bool
    accumulate: int = 1
    cached: bool = False
    ranks: int = 1


def cases() -> list[Case]:
    """Every source with every interruption; every way to load, cached or not, with every interruption; two ranks."""
    turn = cycle(WORKERS)
    found = [
        Case(source, place, *next(turn), accumulate=2 if "window" in place or index % 2 else 1)
        for index, (source, place) in enumerate(product(SOURCES, PLACES))
    ]
    for place, loading, cached in product(PLACES, WORKERS, (False, True)):
        found.append(Case("folder", place, *loading, accumulate=2 if "window" in place else 1, cached=cached))
    for place, loading, source in product(PLACES, (WORKERS[0], WORKERS[3]), ("synthetic", "streaming")):
        accumulate = 2 if "window" in place else 1
        found.append(Case(source, place, *loading, accumulate=accumulate, cached=source == "synthetic", ranks=2))
    return list(dict.fromkeys(found))


class Interrupted(Exception):  # noqa: N818 - no error
    pass


class Interrupt(Callback):
    """Ends a run at a place as a kill would; what is left of it is `last.ckpt`."""

    def __init__(self, place: str) -> None:
        self.place = place

    def strike(self, place: str, *, when: bool) -> None:
        if place == self.place and when:
            raise Interrupted

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        inside = trainer.current_epoch == 1 and batch_idx
        self.strike("inside an epoch", when=inside == 2)
        self.strike("inside an accumulation window", when=inside == 3)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.strike("at an epoch's end", when=trainer.current_epoch == 1)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        self.strike("during validation", when=trainer.current_epoch == 1)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.strike("at the last step", when=trainer.current_epoch == EPOCHS - 1)


class Own:
    """A user's own source."""

    classes = ("a", "b", "c")

    def dataset(self, split: str) -> ArrayImages:
        count = {"train": 21, "val": 6, "test": 0}[split]
        draw = torch.Generator().manual_seed(SPLITS.index(split))
        images = torch.randint(0, 256, (count, SIZE, SIZE), dtype=torch.uint8, generator=draw)
        return ArrayImages(images=images, labels=[index % 3 for index in range(count)])


class NotPersistent(ImageDataModule):
    """Starts its workers in every epoch."""

    def _fetching(self, workers: int) -> dict[str, Any]:
        return {**super()._fetching(workers), "persistent_workers": False}


def source_of(name: str, home: Path) -> Any:
    """A source of some 21 training images (digits: more) of 8 to 12 pixels."""
    lengths = {"length": 21, "val_length": 6, "test_length": 0, "classes": 3, "image_size": SIZE}
    files = {"path": home / "photos", "val_fraction": 0.2, "test_fraction": 0.0}
    made = {
        "synthetic": lambda: Synthetic(**lengths),
        "digits": Digits,
        "random": lambda: RandomNoise(**lengths),
        "folder": lambda: ImageFolder(**files),
        "decoded_cache": lambda: ImageFolder(**files, decoded_cache=home / "decoded"),
        "csv": lambda: CsvTable(**{**files, "path": home / "table.csv"}),
        "streaming": lambda: Streaming(path=str(home / "chunks"), window=2),
        "own": Own,
    }
    return made[name]()


def make_files(home: Path) -> None:
    """27 images of three classes as a folder, a table and chunks."""
    draw, rows = np.random.default_rng(0), ["path,label"]
    for index in range(27):
        path = home / "photos" / "abc"[index % 3] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)
        rows.append(f"{path},{'abc'[index % 3]}")
    (home / "table.csv").write_text("\n".join(rows) + "\n")
    folder = ImageFolder(path=home / "photos", val_fraction=0.2, test_fraction=0.0)
    images = {split: found for split in SPLITS if (found := folder.dataset(split)) is not None and len(found)}
    ChunkWriter(chunk_size=0.002).write(images, classes=folder.classes, output=home / "chunks")


def network(classes: int) -> nn.Module:
    """Batch norm and dropout on both sides of each frost line."""
    torch.manual_seed(3)
    first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
    second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(first, second, nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, classes)))


def fit(case: Case, home: Path, folder: Path, *, place: str | None = None, resume: Path | None = None) -> Any:
    """One process's part of a run; None where it was interrupted, else what it ended with."""
    gc.collect()  # an interrupted run's loader would otherwise be found by the next one's workers
    torch.manual_seed(1 if resume is None else 2)  # another process draws from elsewhere
    kind = ImageDataModule if case.persistent else NotPersistent
    data = kind(
        source=source_of(case.source, home), image_size=SIZE, batch_size=BATCH, loading=Loading(workers=case.workers),
        augment=Augmentation(name="none" if case.cached else "standard"),
    )  # fmt: skip
    cache = FeatureCache(folder=home / "features" / folder.name) if case.cached else None
    model = ImageClassifier(
        network=network(len(data.classes)), data_spec=data.spec, policy=POLICY,
        training=TrainingOptions(optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.01)),
        compute=ComputeOptions(feature_cache=cache),
    )  # fmt: skip
    kept = checkpoint_callbacks(folder, monitor="val/loss", every_n_steps=1)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=case.ranks, strategy="ddp" if case.ranks > 1 else "auto",
        limit_train_batches=BATCHES, accumulate_grad_batches=case.accumulate, num_sanity_val_steps=0, logger=False,
        callbacks=[ExactResume(), *kept.values(), *([Interrupt(place)] if place else [])],
        plugins=[AtomicCheckpointIO()], use_distributed_sampler=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(5 + trainer.global_rank + (100 if resume else 0))
    try:
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    except Interrupted:
        return None
    best = torch.load(folder / "best.ckpt", weights_only=True)
    return {
        "weights": model.network.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict()["state"],
        "metrics": {name: value.clone() for name, value in trainer.callback_metrics.items()},
        "phases": [(entry["phase"], entry["step"]) for entry in model.configure_callbacks()[0].history],
        "step": (trainer.global_step, torch.load(folder / "last.ckpt", weights_only=True)["global_step"]),
        "best": (best["global_step"], best["state_dict"]),
    }


def same(one: Any, other: Any) -> bool:
    """Equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def differing(case: Case, home: Path, runs: Path) -> list[str]:
    """What differs between the two runs; a window is interrupted twice, the second time right after the resume."""
    whole = fit(case, home, runs / "whole")
    assert fit(case, home, runs / "part", place=case.place) is None, "nothing was interrupted"
    last = runs / "part/last.ckpt"
    if "window" in case.place:
        assert fit(case, home, runs / "again", place=case.place, resume=last) is None
        last = runs / "again/last.ckpt" if (runs / "again/last.ckpt").exists() else last
    rest = fit(case, home, runs / "rest", resume=last)
    return [key for key in whole if not same(whole[key], rest[key])]


def one_rank(rank: int, case: dict[str, Any], home: str, port: int) -> None:
    """A rank of two; writes what differs."""
    quiet()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    found = differing(Case(**case), Path(home), Path(home, f"runs-{port}"))
    Path(home, f"differs-{port}-{rank}").write_text(",".join(found))
    torch.distributed.destroy_process_group()


def differing_on_ranks(case: Case, home: Path) -> list[str]:
    """`differing`, over all ranks of a process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        one_rank, (asdict(case), str(home), port), nprocs=case.ranks, start_method="spawn"
    )
    texts = [(home / f"differs-{port}-{rank}").read_text() for rank in range(case.ranks)]
    return [word for text in texts for word in text.split(",") if word]


def quiet() -> None:
    """Without what Lightning says of hundreds of tiny runs."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "frostline"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    torch.set_num_threads(1)


def main() -> None:
    """Run the combinations, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="combinations whose description contains this")
    only = parser.parse_args().only
    quiet()
    home, counts = Path(tempfile.mkdtemp(prefix="resume-matrix-")), Counter[str]()
    wrong = 0
    try:
        make_files(home)
        for case in cases():
            if only not in str(case):
                continue
            try:
                runs = home / f"runs{counts['all']}"
                found = differing(case, home, runs) if case.ranks == 1 else differing_on_ranks(case, home)
            except Exception as error:  # counted as a difference, so that the others run
                found = [f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"]
            if found:
                wrong += 1
                print("WRONG", case, "; ".join(found), flush=True)
            loading = f"{case.workers} workers" + (", persistent" if case.workers and case.persistent else "")
            counts.update([case.source, case.place, loading, f"{case.ranks} ranks"])
            counts.update([f"accumulation {case.accumulate}", "cached" if case.cached else "uncached", "all"])
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    print(f"{counts['all'] - wrong} of {counts['all']} combinations are bit-identical")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
