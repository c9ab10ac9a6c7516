"""The study behind the defaults: what to freeze, optimizer, rate and steps, where labels are few.

Usage: OMP_NUM_THREADS=1 python scripts/freezing/defaults.py [--seeds 5] [--folder FOLDER] [--out FILE]

Two transfers at 32 pixels: a ResNet-18 trained on 6,000 images of Fashion-MNIST, to scikit-learn's digits; and one
trained on the digits, to Fashion-MNIST. A row is a policy, an optimizer with its rate, and a number of steps. A seed
chooses the labelled images, the head and the order of the batches, the same for every row. Runs already in OUT are not
repeated.
"""

import argparse
import itertools
import json
import logging
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
from frostline.data.fashion_mnist import DEBIAN_FOLDER, read_pair
from frostline.data.source import ArrayImages
from frostline.schedulers import onecycle

sys.path.insert(0, str(Path(__file__).parent))
from study import ROOT, SIDE, pretrain, trainer

OPTIMIZERS = {
    "sgd 0.05": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.0005),
    "sgd 0.01": partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.0005),
    "sgd 0.002": partial(torch.optim.SGD, lr=0.002, momentum=0.9, weight_decay=0.0005),
    "adamw 0.003": partial(torch.optim.AdamW, lr=0.003, weight_decay=0.01),
    "adamw 0.001": partial(torch.optim.AdamW, lr=0.001, weight_decay=0.01),
    "adamw 0.0002": partial(torch.optim.AdamW, lr=0.0002, weight_decay=0.01),
}
POLICIES = ("backbone", "to_layer3", "discriminative", "none")
LABELS = (5, 20, 80)  # per class
TESTED = 100  # per class
TRANSFERS = ("fashion to digits", "digits to fashion")


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
    training = TrainingOptions(optimizer=OPTIMIZERS["sgd 0.05"], scheduler=onecycle())
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
    batch = min(32, count // 2)
    data = ImageDataModule(source=source, image_size=SIDE, batch_size=batch, seed=seed)
    weights = "none" if row["policy"] == "none, random" else str(folder / f"{before}.pt")
    network, _ = build_network(model={"name": "resnet18"}, head={"name": "linear"}, classes=10, weights=weights)
    torch.manual_seed(seed)
    network.fc.reset_parameters()
    policy = FreezePolicy.preset(row["policy"].partition(",")[0])
    training = TrainingOptions(optimizer=OPTIMIZERS[row["optimizer"]], scheduler=onecycle())
    compute = ComputeOptions(feature_cache=FeatureCache(folder=folder / "features"))
    module = ImageClassifier(network=network, data_spec=data.spec, policy=policy, training=training, compute=compute)
    ours = trainer(-(-row["steps"] // (count // batch)), validates=False)
    ours.fit(module, data)
    return float(ours.test(module, data, verbose=False)[0]["test/accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, nargs="+", default=[150])
    parser.add_argument("--labels", type=int, nargs="+", default=list(LABELS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--transfers", nargs="+", default=list(TRANSFERS))
    parser.add_argument("--folder", type=Path, default=Path("runs/defaults_study"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "defaults_study.json")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "frostline"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    pretrain(given.folder / "fashion.pt", images=6000, epochs=4, batch=64)
    pretrain_on_digits(given.folder / "digits.pt")
    sources = {name: images_of(name) for name in ("fashion", "digits")}
    runs = json.loads(given.out.read_text()) if given.out.is_file() else []
    known = {tuple(run[key] for key in ("transfer", "policy", "optimizer", "labels", "steps", "seed")) for run in runs}
    for seed, steps, transfer_name, labels, policy, optimizer in itertools.product(
        given.seeds, given.steps, given.transfers, given.labels, given.policies, given.optimizers
    ):
        if (transfer_name, policy, optimizer, labels, steps, seed) in known:
            continue
        row = {"transfer": transfer_name, "policy": policy, "optimizer": optimizer, "labels": labels, "steps": steps}
        start = time.time()
        accuracy = transfer(row, seed=seed, folder=given.folder, sources=sources)
        runs.append({**row, "seed": seed, "accuracy": round(accuracy, 4)})
        seconds = time.time() - start
        place = f"{seed} {transfer_name:18} {labels:4} {steps:4} {policy:15} {optimizer:13}"
        print(f"{place} {100 * accuracy:5.1f} % {seconds:5.1f} s", flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(runs, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
