"""What freezing does to accuracy where labels are few: every preset, and every batch-norm mode of two, on real images.

Usage: OMP_NUM_THREADS=1 python scripts/freezing/study.py [--seeds 5] [--pretrained FILE] [--out FOLDER] [--quick]

A ResNet-18 is pretrained on part of Fashion-MNIST at 32 pixels (kept in --pretrained and used again), then transferred
to scikit-learn's digits with 10 labels a class. Learning rate, schedule, steps and batch size are the same for every
row and are frostline's defaults; nothing is tuned. A seed chooses the labelled images, the new head and the order of
the batches, the same for every row. Runs already in OUT/freezing_study.json are not repeated, so that a study can be
interrupted, and continued with more seeds. With --out left at docs/figures, the table in docs/freezing.md is rewritten.
"""

import argparse
import json
import logging
import statistics
import tempfile
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer, seed_everything
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from frostline import FreezePolicy, ImageClassifier, ImageDataModule, TrainingOptions, build_network
from frostline.data.fashion_mnist import FashionMNIST
from frostline.data.source import ArrayImages
from frostline.figures import MUTED, save_figure, styled
from frostline.freezing import FreezingSchedule
from frostline.schedulers import onecycle

ROOT = Path(__file__).resolve().parents[2]
FIGURES, DOCS = ROOT / "docs" / "figures", ROOT / "docs" / "freezing.md"
BEGIN, END = "<!-- study: written by scripts/freezing/study.py -->", "<!-- study ends -->"

SIDE, BATCH, EPOCHS = 32, 20, 12
LABELS, VALIDATION = 10, 5  # per class
PRETRAINING = {"images": 6_000, "epochs": 4, "batch": 64}
PRESETS = (
    *("none", "backbone", "to_layer3", "to_layer2", "to_layer1", "stem", "gradual_unfreezing", "unfreeze_on_plateau"),
    *("discriminative", "all_but_batch_norm", "all_but_bias", "surgical"),
)
MODES, WITH_MODES = ("frozen", "drift", "recalibrate", "affine", "train"), ("backbone", "to_layer3")
# The row that shows whether there was anything to transfer.
SCRATCH = "none, not pretrained"


class FewDigits:
    """scikit-learn's digits with few labels: so many per class to train on, a few to validate, the rest to test."""

    def __init__(self, *, labels: int, validation: int, seed: int) -> None:
        bunch = load_digits()
        self._images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)
        self._labels = np.asarray(bunch.target)
        self._parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        rng = np.random.default_rng(seed)
        for label in range(10):
            members = rng.permutation(np.flatnonzero(self._labels == label)).tolist()
            self._parts["train"] += members[:labels]
            self._parts["val"] += members[labels : labels + validation]
            self._parts["test"] += members[labels + validation :]

    @property
    def classes(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    def dataset(self, split: str) -> ArrayImages:
        indices = self._parts[split]
        return ArrayImages(images=self._images[indices], labels=self._labels[indices].tolist())


def rows() -> list[tuple[str, str]]:
    """Preset and batch-norm mode of each row; the first mode is every preset's own."""
    chosen = [(preset, mode) for preset in PRESETS for mode in (MODES if preset in WITH_MODES else MODES[:1])]
    return [(SCRATCH, "frozen"), *chosen]


def classifier(network: torch.nn.Module, data: ImageDataModule, policy: FreezePolicy) -> ImageClassifier:
    """With the optimizer and schedule of conf/optimizer/sgd.yaml and conf/scheduler/onecycle.yaml."""
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.0005)
    training = TrainingOptions(optimizer=sgd, scheduler=onecycle())
    return ImageClassifier(network=network, data_spec=data.spec, policy=policy, training=training)


def trainer(epochs: int, *, validates: bool) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def pretrain(path: Path, *, images: int, epochs: int, batch: int) -> dict[str, Any]:
    """Train on Fashion-MNIST, unless the file has it already; returns the file's facts."""
    wanted = {"images": images, "epochs": epochs, "batch": batch, "side": SIDE}
    if path.is_file():
        facts = torch.load(path, weights_only=True)["facts"]
        if facts["wanted"] != wanted:
            raise SystemExit(f"{path} was pretrained with {facts['wanted']}, not {wanted}: name another --pretrained.")
        return facts
    seed_everything(0, verbose=False)
    data = ImageDataModule(source=FashionMNIST(train_length=images), image_size=SIDE, batch_size=batch)
    network, _ = build_network(model={"name": "resnet18"}, head={"name": "linear"}, classes=10)
    module, ours = classifier(network, data, FreezePolicy.static("all")), trainer(epochs, validates=False)
    ours.fit(module, data)
    accuracy = ours.test(module, data, verbose=False)[0]["test/accuracy"]
    print(f"pretrained: {100 * accuracy:.1f} % on Fashion-MNIST's test images")
    facts = {"wanted": wanted, "test_accuracy": round(accuracy, 4)}
    body = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": body, "facts": facts}, path)
    return facts


def transfer(name: str, batch_norm: str, *, seed: int, pretrained: Path, epochs: int) -> dict[str, Any]:
    """One run: its test accuracy, how many parameters trained at some time, and the step at which each phase began."""
    seed_everything(seed, verbose=False)
    source = FewDigits(labels=LABELS, validation=VALIDATION, seed=seed)
    data = ImageDataModule(source=source, image_size=SIDE, batch_size=BATCH, seed=seed)
    weights = "none" if name == SCRATCH else str(pretrained)
    network, _ = build_network(model={"name": "resnet18"}, head={"name": "linear"}, classes=10, weights=weights)
    # The same head in every row, whatever was drawn before it.
    torch.manual_seed(seed)
    network.fc.reset_parameters()
    policy = replace(FreezePolicy.preset("none" if name == SCRATCH else name), batch_norm=batch_norm)
    validates = any(phase.until is not None and phase.until.metric for phase in policy.phases)
    module, ours = classifier(network, data, policy), trainer(epochs, validates=validates)
    ours.fit(module, data)
    # Now: for a test Lightning asks the module for its callbacks again, and this one is gone.
    schedule = next(entry for entry in ours.callbacks if isinstance(entry, FreezingSchedule))
    begins = {entry["phase"]: entry["step"] for entry in schedule.history}
    accuracy = ours.test(module, data, verbose=False)[0]["test/accuracy"]
    trained = sum(network.get_parameter(parameter).numel() for parameter in module.resolved.trainable)
    run = {"accuracy": accuracy, "trainable_parameters": trained}
    return {**run, "phases": begins} if len(begins) > 1 else run


def study(path: Path, *, seeds: int, pretrained: Path, epochs: int, pretraining: dict[str, int]) -> dict[str, Any]:
    """All rows for all seeds; a seed's rows first, so that what is there is a whole study of fewer seeds."""
    facts = pretrain(pretrained, **pretraining)
    setup = {"labels_per_class": LABELS, "batch": BATCH, "epochs": epochs, "side": SIDE, "pretraining": facts}
    found: dict[str, Any] = {"setup": setup, "runs": []}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["setup"] != setup:
            raise SystemExit(f"{path} holds a study of another setup, {found['setup']}: name another --out.")
    known = {(run["preset"], run["batch_norm"], run["seed"]) for run in found["runs"]}
    for seed in range(seeds):
        for name, mode in rows():
            if (name, mode, seed) in known:
                continue
            run = transfer(name, mode, seed=seed, pretrained=pretrained, epochs=epochs)
            found["runs"].append({"preset": name, "batch_norm": mode, "seed": seed, **run})
            print(f"seed {seed}  {name:22} {mode:12} {100 * run['accuracy']:5.1f} %", flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def summary(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each row's accuracies over the seeds that every row has."""
    seeds = set.intersection(
        *({run["seed"] for run in found["runs"] if (run["preset"], run["batch_norm"]) == row} for row in rows())
    )
    if not seeds:
        raise SystemExit("Not one seed is complete yet.")
    lines = []
    for name, mode in rows():
        own = [run for run in found["runs"] if (run["preset"], run["batch_norm"]) == (name, mode)]
        accuracies = [100 * run["accuracy"] for run in own if run["seed"] in seeds]
        lines.append(
            {
                "preset": name,
                "batch_norm": mode,
                "trainable_parameters": own[0]["trainable_parameters"],
                "accuracies": accuracies,
                "mean": statistics.mean(accuracies),
                "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
            }
        )
    return lines


def markdown(lines: list[dict[str, Any]]) -> str:
    """The table as the docs show it."""
    count = len(lines[0]["accuracies"])
    text = [
        f"| preset | `batch_norm` | parameters that train | test accuracy, mean ± sd of {count} seeds |",
        "|---|---|--:|--:|",
    ]
    for line in lines:
        everything = line["preset"] in ("none", "discriminative", "gradual_unfreezing", "unfreeze_on_plateau", SCRATCH)
        mode = "(nothing stays frozen)" if everything else f"`{line['batch_norm']}`"
        name = "`none`, not pretrained" if line["preset"] == SCRATCH else f"`{line['preset']}`"
        text.append(f"| {name} | {mode} | {line['trainable_parameters']:,} | {line['mean']:.1f} ± {line['sd']:.1f} % |")
    return "\n".join(text)


@styled
def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Every row's mean a large dot with its standard deviation; below it, every run a small one."""
    figure = Figure(figsize=(8.5, 0.27 * len(lines) + 1.1), layout="constrained")
    axes = figure.subplots()
    for height, line in enumerate(reversed(lines)):
        own = line["batch_norm"] == "frozen"
        colour = "#8a8f98" if line["preset"] == SCRATCH else "#c96a1b" if own else "#2f83b7"
        below = [height - 0.28] * len(line["accuracies"])
        axes.plot(line["accuracies"], below, ".", color=colour, alpha=0.6, markersize=4)
        axes.errorbar(line["mean"], height, xerr=line["sd"], fmt="o", color=colour, markersize=6, capsize=3)
    names = [line["preset"] + ("" if line["batch_norm"] == "frozen" else f", {line['batch_norm']}") for line in lines]
    axes.set_yticks(range(len(lines)), list(reversed(names)), fontsize=8)
    axes.set_xlabel(
        f"test accuracy on digits, % ({len(lines[0]['accuracies'])} seeds, mean ± sd; {LABELS} labels a class)"
    )
    axes.grid(axis="x", color=MUTED, linewidth=0.3)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pretrained", type=Path, default=Path("runs/freezing_study/fashion_mnist.pt"))
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder for freezing_study.json and .svg")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs, into a new folder: does it run?")
    given = parser.parse_args()
    # Lightning's advice on workers and intervals, and its calls of what torch 2.15 deprecates.
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "frostline.freezing"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    seeds, epochs, pretraining = given.seeds, EPOCHS, PRETRAINING
    if given.quick:
        given.out = Path(tempfile.mkdtemp(prefix="freezing_study_"))
        given.pretrained = given.out / "fashion_mnist.pt"
        seeds, epochs, pretraining = 1, 2, {"images": 640, "epochs": 1, "batch": 64}
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "freezing_study.json"
    lines = summary(study(path, seeds=seeds, pretrained=given.pretrained, epochs=epochs, pretraining=pretraining))
    print(f"\n{markdown(lines)}\n\n{path}")
    draw(lines, path.with_suffix(".svg"))
    if given.out == FIGURES:
        before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{markdown(lines)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
