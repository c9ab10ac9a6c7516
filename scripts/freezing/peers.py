"""What goes wrong when a network is frozen in the usual ways, measured here, beside frostline doing the same.

Usage: OMP_NUM_THREADS=1 python scripts/freezing/peers.py [FACT ...] [--out FOLDER]

Facts: tutorial, test_mode, zero_gradient, ranks, scheduler_ranks, resume; without any, all of them (some minutes on two
cores). Every number is measured by running the peer's own code: nothing here imitates it. `scheduler_ranks` needs
finetuning-scheduler, which is no dependency of frostline, and says so where it is missing:
`uv pip install --target FOLDER --no-deps finetuning-scheduler`, then PYTHONPATH=FOLDER.
With --out left at docs/figures, the facts replace their like in freezing_peers.json and in docs/freezing.md's table.
"""

import argparse
import copy
import importlib.metadata
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
import torchvision
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from frostline.freezing import FreezePolicy, FreezingSchedule, apply_phase

ROOT = Path(__file__).resolve().parents[2]
FIGURES, DOCS = ROOT / "docs" / "figures", ROOT / "docs" / "freezing.md"
BEGIN, END = "<!-- peers: written by scripts/freezing/peers.py -->", "<!-- peers end -->"

WORLD, BATCH, STEPS = 2, 8, 4
# BackboneFinetuning set to unfreeze at epoch 1, at a tenth of the head's rate; but it never freezes batch
# norms, with which its backbone's scales and shifts train from the start.
POLICY = {
    "phases": [
        {"name": "head", "train": ["head"], "until": {"epochs": 1}},
        {"name": "all", "train": ["all"], "lr": {"backbone": 0.1}},
    ]
}


# The tutorials' idiom: requires_grad = False, then model.train().


def tutorial() -> dict[str, Any]:
    """Batch-norm statistics of a frozen ResNet-18 after 20 steps on other data.

    The share forgotten is measured on two copies whose statistics alone differ: in training mode both see the same
    activations, so that what is left of the difference is what is left of the old statistics.
    """
    steps, images = 20, torch.randn(20 * 8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 1.5 + 0.7
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=5)
    other = copy.deepcopy(network)
    for name, buffer in other.named_buffers():
        if name.endswith("running_mean"):
            buffer += 1.0
    start = {name: buffer.clone() for name, buffer in network.named_buffers()}
    ours = copy.deepcopy(network)
    phase = FreezePolicy.static("fc").resolve(ours).phases[0]
    apply_phase(ours, phase)
    for frozen in (network, other):
        for name, parameter in frozen.named_parameters():
            parameter.requires_grad_(name.startswith("fc."))
    for each in (network, other, ours):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.01, momentum=0.9)
        for batch in images.split(len(images) // steps):
            each.train()
            optimizer.zero_grad()
            F.cross_entropy(each(batch), torch.zeros(len(batch), dtype=torch.long)).backward()
            optimizer.step()
    after, beside, kept = dict(network.named_buffers()), dict(other.named_buffers()), dict(ours.named_buffers())
    means = [name for name in start if name.endswith("running_mean")]
    left = max(float((beside[name] - after[name]).abs().max()) for name in means)
    moved = [name for name in start if not torch.equal(start[name], after[name])]
    still = [name for name in start if not torch.equal(start[name], kept[name])]
    variance = float(after["bn1.running_var"].mean() / start["bn1.running_var"].mean())
    return {
        "title": "`requires_grad = False`, then `.train()`: the tutorials' idiom; ResNet-18, 20 steps",
        "without": f"{len(moved)} of {len(start)} buffers moved; {100 * (1 - left):.1f} % of the old statistics are "
        f"gone (1 − 0.9²⁰ = {100 * (1 - 0.9**20):.1f} %)",
        "frostline": f"{len(still)} of {len(start)} buffers moved",
        "numbers": {
            "forgotten": 1 - left,
            "buffers_moved": len(moved),
            "buffers": len(start),
            "first_variance_ratio": variance,
            "frostline_buffers_moved": len(still),
        },
    }


# Lightning's BaseFinetuning.freeze(train_bn=False).


def test_mode() -> dict[str, Any]:
    """Accuracy in training mode and in test mode of a head trained on a backbone frozen by Lightning.

    A small network learns the digits 0 to 4; then a new head learns 5 to 9, light and dark exchanged, from 100 labels.
    """
    modes: dict[str, list[float]] = {"peer_train": [], "peer_test": [], "frostline_train": [], "frostline_test": []}
    for seed in range(3):
        source, train, test = _digit_tasks(seed)
        for who in ("peer", "frostline"):
            torch.manual_seed(seed)
            network = nn.Sequential(_small_backbone(), nn.Linear(32, 5))
            _learn(network, source, steps=200)
            network[1].reset_parameters()
            if who == "peer":
                BaseFinetuning.freeze(network[0], train_bn=False)
            else:
                apply_phase(network, FreezePolicy.static("1").resolve(network).phases[0])
            _learn(network, train, steps=200)
            modes[f"{who}_train"].append(_accuracy(network.train(), test))
            modes[f"{who}_test"].append(_accuracy(network.eval(), test))
    mean = {name: 100 * sum(values) / len(values) for name, values in modes.items()}
    return {
        "title": "Lightning `BaseFinetuning.freeze(train_bn=False)`, a head trained on top; digits, mean of 3 seeds",
        "without": f"accuracy {mean['peer_train']:.1f} % in train mode, {mean['peer_test']:.1f} % in test mode",
        "frostline": f"{mean['frostline_train']:.1f} % and {mean['frostline_test']:.1f} %",
        "numbers": mean,
    }


def _small_backbone() -> nn.Module:
    layers: list[nn.Module] = []
    for into, out in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _digit_tasks(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Images (n, 1, 8, 8) in [0, 1] and labels 0 to 4: the source task; 100 of the target task; the rest of it."""
    bunch = load_digits()
    images, labels = torch.from_numpy(bunch.images).float()[:, None] / 16, torch.from_numpy(bunch.target).long()
    low = labels < 5
    others, names = 1 - images[~low], labels[~low] - 5
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    few, rest = order[:100], order[100:]
    return [(images[low], labels[low]), (others[few], names[few]), (others[rest], names[rest])]


def _learn(network: nn.Module, task: tuple[Tensor, Tensor], *, steps: int) -> None:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    network.train()
    for _ in range(steps):
        rows = torch.randint(len(task[1]), (32,))
        optimizer.zero_grad()
        F.cross_entropy(network(task[0][rows]), task[1][rows]).backward()
        optimizer.step()


@torch.no_grad()
def _accuracy(network: nn.Module, task: tuple[Tensor, Tensor]) -> float:
    batches = zip(task[0].split(64), task[1].split(64), strict=True)
    right = [network(images).argmax(1) == labels for images, labels in batches]
    return float(torch.cat(right).float().mean())


# A gradient of zero instead of none.


def zero_gradient() -> dict[str, Any]:
    """How far five steps move a parameter that trained, was frozen, and has a gradient of zero."""
    found: dict[str, float] = {}
    makers: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
        "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    }
    for name, make in makers.items():
        for who in ("peer", "frostline"):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
            optimizer = make(network.parameters())
            images, labels = torch.randn(16, 8), torch.arange(16) % 3
            for step in range(10):
                optimizer.zero_grad(set_to_none=False)
                if step == 5:
                    if who == "peer":
                        network[0].requires_grad_(False)
                    else:
                        apply_phase(network, FreezePolicy.static("1").resolve(network).phases[0])
                    before = network[0].weight.detach().clone()
                F.cross_entropy(network(images), labels).backward()
                optimizer.step()
            found[f"{who}_{name}"] = float((network[0].weight - before).abs().max())
    return {
        "title": "`zero_grad(set_to_none=False)`: a layer frozen after it trained has a gradient of zero, not none",
        "without": f"in 5 steps a frozen weight moves by {found['peer_sgd']:.2f} (SGD with momentum), "
        f"{found['peer_adamw']:.2f} (AdamW)",
        "frostline": f"{found['frostline_sgd']} and {found['frostline_adamw']}",
        "numbers": found,
    }


# Lightning's BackboneFinetuning, across ranks and across a resume.


class Module(pl.LightningModule):
    """As BackboneFinetuning wants it: a `backbone`, and an optimizer over what requires a gradient at the start;
    FreezingSchedule wants all parameters in it, in a group for each learning rate."""

    def __init__(self, *, only_trainable: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = torchvision.models.resnet18()
        self.backbone.fc = nn.Identity()
        self.head = nn.Linear(512, 3)
        self.only_trainable = only_trainable

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups: list[Any] = [{"params": list(part.parameters())} for part in (self.backbone, self.head)]
        if self.only_trainable:
            groups = [entry for entry in self.parameters() if entry.requires_grad]
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9)


def _callback(who: str) -> pl.Callback:
    if who == "lightning":
        return BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    if who == "finetuning_scheduler":
        from finetuning_scheduler import FinetuningScheduler

        schedule = {
            0: {"params": ["head.*"], "max_transition_epoch": 1},
            1: {"params": ["backbone.*"], "max_transition_epoch": 3, "lr": 0.005},
        }
        return FinetuningScheduler(
            ft_schedule=schedule,
            epoch_transitions_only=True,
            restore_best=False,
            log_dir=tempfile.mkdtemp(prefix="fts_"),
        )
    return FreezingSchedule(policy=FreezePolicy.from_dict(POLICY))


def _fit(who: str, *, data_seed: int, callbacks: list[pl.Callback] | None = None, **settings: Any) -> Module:
    """Three epochs of 4 steps on fixed batches in fixed order; the backbone is unfrozen at epoch 1."""
    generator = torch.Generator().manual_seed(data_seed)
    count = BATCH * STEPS
    images, labels = torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 3
    path = settings.pop("ckpt_path", None)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=[_callback(who), *(callbacks or [])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        use_distributed_sampler=False,
        **settings,
    )
    module = Module(only_trainable=who != "frostline")
    loader = DataLoader(TensorDataset(images, labels), batch_size=BATCH)
    trainer.fit(module, loader, ckpt_path=path, weights_only=False)
    return module


def worker(who: str, out: Path) -> None:
    """What each of the two processes does."""
    rank = int(os.environ["RANK"])
    module = _fit(who, data_seed=rank, strategy="ddp", devices=WORLD)
    torch.save({name: entry.detach() for name, entry in module.named_parameters()}, out / f"{who}-{rank}.pt")


def _between_ranks(who: str) -> tuple[float, str]:
    """The largest difference between parameters of the two ranks, eight steps after unfreezing, and where it is."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORLD}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, __file__, "--worker", who, "--out", folder], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])
        one, other = (torch.load(Path(folder) / f"{who}-{rank}.pt", weights_only=True) for rank in range(WORLD))
    distances = {name: float((one[name] - other[name]).abs().max()) for name in one}
    where = max(distances, key=lambda name: distances[name])
    return distances[where], where


def _ranks(who: str, title: str, note: str = "") -> dict[str, Any]:
    (peer, where), (ours, _) = _between_ranks(who), _between_ranks("frostline")
    return {
        "title": title,
        "without": f"the ranks' weights differ by up to {peer:.3f} (`{where}`){note}",
        "frostline": f"{ours}",
        "numbers": {"peer": peer, "where": where, "frostline": ours},
    }


def ranks() -> dict[str, Any]:
    """Two gloo processes with different data: do they still train one network after the backbone was unfrozen?"""
    version = importlib.metadata.version("lightning")
    title = f"Lightning {version} `BackboneFinetuning`, two ranks (DDP), ResNet-18, 8 steps after unfreezing"
    return _ranks("lightning", title, "; no error, and no warning of it")


def scheduler_ranks() -> dict[str, Any] | None:
    """The same for finetuning-scheduler; None where it is not installed."""
    if importlib.util.find_spec("finetuning_scheduler") is None:
        return None
    version = importlib.metadata.version("finetuning-scheduler")
    return _ranks("finetuning_scheduler", f"finetuning-scheduler {version}, the same two ranks")


def resume() -> dict[str, Any]:
    """A run resumed from the end of its second epoch, one epoch after unfreezing, beside the uninterrupted one."""
    found: dict[str, Any] = {}
    for who in ("lightning", "frostline"):
        with tempfile.TemporaryDirectory() as folder:
            saver = ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
            whole = _fit(who, data_seed=0, callbacks=[saver], devices=1)
            again = _fit(who, data_seed=0, devices=1, ckpt_path=str(Path(folder) / "epoch=1.ckpt"))
        one, other = whole.state_dict(), again.state_dict()
        found[who] = {
            "frozen_tensors": sum(not entry.requires_grad for entry in again.parameters()),
            "tensors": len(list(again.parameters())),
            "differing": sum(not torch.equal(one[name], other[name]) for name in one),
            "largest": max(float((one[name] - other[name]).abs().max()) for name, _ in whole.named_parameters()),
        }
    peer, ours = found["lightning"], found["frostline"]
    return {
        "title": f"Lightning {importlib.metadata.version('lightning')} `BackboneFinetuning`, resumed one epoch after "
        "unfreezing, ResNet-18",
        "without": f"{peer['frozen_tensors']} of {peer['tensors']} parameters are frozen again to the end; "
        f"{peer['differing']} tensors differ from the uninterrupted run, weights by up to {peer['largest']:.3f}",
        "frostline": f"{ours['frozen_tensors']} frozen, {ours['differing']} differ: bit-identical",
        "numbers": found,
    }


FACTS: dict[str, Callable[[], dict[str, Any] | None]] = {
    "tutorial": tutorial,
    "test_mode": test_mode,
    "zero_gradient": zero_gradient,
    "ranks": ranks,
    "scheduler_ranks": scheduler_ranks,
    "resume": resume,
}


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """The table as the docs show it."""
    text = ["| what one does | what goes wrong | frostline | `scripts/freezing/peers.py …` |", "|---|---|---|---|"]
    for name in FACTS:
        if name in found:
            fact = found[name]
            text.append(f"| {fact['title']} | {fact['without']} | {fact['frostline']} | `{name}` |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("facts", nargs="*", metavar="FACT", help=", ".join(FACTS))
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder for freezing_peers.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    # Lightning's advice on workers and intervals, and its calls of what torch 2.15 deprecates. BackboneFinetuning's one
    # warning, that batch norms are in the optimizer already as it never froze them, is not about the ranks.
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric", "frostline.freezing", "finetuning_scheduler"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if given.worker:
        worker(given.worker, given.out)
        return
    if unknown := [name for name in given.facts if name not in FACTS]:
        raise SystemExit(f"There is no fact {unknown[0]!r}; there are {', '.join(FACTS)}.")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "freezing_peers.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in given.facts or FACTS:
        fact = FACTS[name]()
        if fact is None:
            print(f"{name}: finetuning-scheduler is not installed", flush=True)
            continue
        found[name] = fact
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {fact['title']}\n  without: {fact['without']}\n  frostline: {fact['frostline']}", flush=True)
    if given.out == FIGURES:
        before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{markdown(found)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
