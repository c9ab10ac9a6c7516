"""The study behind the defaults: what to freeze, optimizer and rate, where labels are few.

Usage: OMP_NUM_THREADS=1 python scripts/freezing/defaults.py [--seeds 5] [--folder FOLDER] [--out FILE]

Two transfers at 32 pixels: a ResNet-18 trained on 6,000 images of Fashion-MNIST, to scikit-learn's digits; and one
trained on the digits, to Fashion-MNIST. A row is a policy, an optimizer and its rate; steps and batch size are those
of the rule. A seed chooses the labelled images, the head and the order of the batches, the same for every row. Runs
already in OUT are not repeated. The table in docs/defaults.md is rewritten from what is whole; --write-only trains
nothing.
"""

import argparse
import itertools
import json
import logging
import statistics
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import seed_everything
from sklearn.datasets import load_digits

from frostline import (
    ComputeOptions,
    FeatureCache,
    FreezePolicy,
    ImageClassifier,
    ImageDataModule,
    TrainingOptions,
    build_network,
)
from frostline.config.recommended import batch_size_for
from frostline.data.fashion_mnist import DEBIAN_FOLDER, read_pair
from frostline.data.source import ArrayImages
from frostline.schedulers import onecycle

sys.path.insert(0, str(Path(__file__).parent))
from study import ROOT, SIDE, pretrain, trainer

OPTIMIZERS = {
    "SGD 0.05": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.0005),
    "SGD 0.01": partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.0005),
    "AdamW 0.001": partial(torch.optim.AdamW, lr=0.001, weight_decay=0.01),
}
RANDOM = "none, random weights"
ROWS = (
    *(("backbone", "SGD 0.05"), ("backbone", "AdamW 0.001")),
    *(("to_layer3", "SGD 0.05"), ("to_layer3", "SGD 0.01"), ("to_layer3", "AdamW 0.001")),
    *(("discriminative", "SGD 0.05"), ("discriminative", "SGD 0.01")),
    *(("none", "SGD 0.05"), ("none", "SGD 0.01"), (RANDOM, "SGD 0.05")),
)
DOCS = ROOT / "docs" / "defaults.md"
BEGIN, END = "<!-- study: written by scripts/freezing/defaults.py -->", "<!-- study ends -->"
STEPS = 150
LABELS = (5, 20, 80)  # per class
TESTED = 100  # per class
TRANSFERS = ("fashion to digits", "digits to fashion")
TITLES = {"fashion": "Fashion-MNIST", "digits": "digits"}


def images_of(name: str) -> ArrayImages:
    if name == "fashion":
        return read_pair(DEBIAN_FOLDER, "train")
    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)
    return ArrayImages(images=images, labels=bunch.target.tolist())


class FewImages:
    """Few labelled images of a class to train on, others of it to test."""

    def __init__(self, images: ArrayImages, *, labels: int, tested: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        parts: dict[str, list[int]] = {"train": [], "test": []}
        targets = np.asarray(images.labels)
        for label in range(10):
            members = rng.permutation(np.flatnonzero(targets == label)).tolist()
            parts["train"] += members[:labels]
            parts["test"] += members[len(members) - tested :] if tested else []
        self._splits = {split: images.subset(indices) for split, indices in parts.items() if indices}

    @property
    def classes(self) -> list[str]:
        return [str(label) for label in range(10)]

    def dataset(self, split: str) -> ArrayImages | None:
        return self._splits.get(split)


def pretrain_on_digits(path: Path) -> None:
    if path.is_file():
        return
    seed_everything(0, verbose=False)
    source = FewImages(images_of("digits"), labels=170, tested=0, seed=0)
    data = ImageDataModule(source=source, image_size=SIDE, batch_size=64)
    network, _ = build_network(model={"name": "resnet18"}, head={"name": "linear"}, classes=10)
    training = TrainingOptions(optimizer=OPTIMIZERS["SGD 0.05"], scheduler=onecycle())
    policy = FreezePolicy.static("all")
    module = ImageClassifier(network=network, data_spec=data.spec, policy=policy, training=training)
    trainer(12, validates=False).fit(module, data)
    body = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": body}, path)


def transfer(row: dict[str, Any], *, seed: int, folder: Path, sources: dict[str, ArrayImages]) -> float:
    seed_everything(seed, verbose=False)
    before, _, after = row["transfer"].partition(" to ")
    source = FewImages(sources[after], labels=row["labels"], tested=TESTED, seed=seed)
    count = row["labels"] * 10
    batch = batch_size_for(count, processes=1)
    data = ImageDataModule(source=source, image_size=SIDE, batch_size=batch, seed=seed)
    weights = "none" if row["policy"] == RANDOM else str(folder / f"{before}.pt")
    network, _ = build_network(model={"name": "resnet18"}, head={"name": "linear"}, classes=10, weights=weights)
    torch.manual_seed(seed)
    network.fc.reset_parameters()
    policy = FreezePolicy.preset(row["policy"].partition(",")[0])
    training = TrainingOptions(optimizer=OPTIMIZERS[row["optimizer"]], scheduler=onecycle())
    compute = ComputeOptions(feature_cache=FeatureCache(folder=folder / "features"))
    module = ImageClassifier(network=network, data_spec=data.spec, policy=policy, training=training, compute=compute)
    ours = trainer(-(-STEPS // (count // batch)), validates=False)
    ours.fit(module, data)
    return float(ours.test(module, data, verbose=False)[0]["test/accuracy"])


def markdown(runs: list[dict[str, Any]]) -> str:
    """A table of each transfer: mean ± standard deviation over the seeds, of what has run with two seeds or more."""
    found: dict[Any, list[float]] = {}
    for run in runs:
        found.setdefault(_cell(run), []).append(100 * run["accuracy"])
    shown = {
        cell: f"{statistics.mean(own):.1f} ± {statistics.stdev(own):.1f} % ({len(own)})"
        for cell, own in found.items()
        if len(own) > 1
    }
    parts = []
    for name in TRANSFERS:
        before, _, after = name.partition(" to ")
        columns = [labels for labels in LABELS if any(cell[:2] == (name, labels) for cell in shown)]
        heads = [
            f"{TITLES[after]}, weights of {TITLES[before]}",
            "rate",
            *(f"{number} labels a class" for number in columns),
        ]
        lines = [f"| {' | '.join(heads)} |", "|---|---|" + "--:|" * len(columns)]
        for row in ROWS:
            cells = [shown.get((name, labels, row), "") for labels in columns]
            preset, _, weights = row[0].partition(",")
            if any(cells):
                title = f"`{preset}`, {weights.strip()}" if weights else f"`{preset}`"
                lines.append(f"| {' | '.join([title, row[1], *cells])} |")
        parts += ["\n".join(lines)] if columns else []
    return "\n\n".join(parts)


def _cell(run: dict[str, Any]) -> tuple[str, int, tuple[str, str]]:
    return run["transfer"], run["labels"], (run["policy"], run["optimizer"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/defaults_study"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "defaults_study.json")
    parser.add_argument("--write-only", action="store_true", help="write the table of the runs in OUT")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "frostline"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if not given.write_only:
        pretrain(given.folder / "fashion.pt", images=6000, epochs=4, batch=64)
        pretrain_on_digits(given.folder / "digits.pt")
    sources = {name: images_of(name) for name in TITLES}
    runs = json.loads(given.out.read_text()) if given.out.is_file() else []
    known = {(run["seed"], *_cell(run)) for run in runs}
    for transfer_name, labels, seed, row in itertools.product(TRANSFERS, LABELS, range(given.seeds), ROWS):
        if given.write_only or (seed, transfer_name, labels, row) in known:
            continue
        run = {"transfer": transfer_name, "labels": labels, "policy": row[0], "optimizer": row[1]}
        start = time.time()
        accuracy = transfer(run, seed=seed, folder=given.folder, sources=sources)
        runs.append({**run, "seed": seed, "accuracy": round(accuracy, 4)})
        place = f"{seed} {transfer_name:18} {labels:3} {row[0]:21} {row[1]:12}"
        print(f"{place} {100 * accuracy:5.1f} % {time.time() - start:5.1f} s", flush=True)
        lines = ",\n".join(json.dumps(run) for run in runs)
        given.out.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    table = markdown(runs)
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
