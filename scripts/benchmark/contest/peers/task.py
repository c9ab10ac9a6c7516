"""The arguments of each competitor and its report: all that the peers' scripts share.

Needs nothing beyond the standard library, so that it adds nothing to a peer's start.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

BATCH, IMAGE_SIZE, RESIZED, CLASSES = 32, 224, 256, 10
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Workload:
    """One training.

    Attributes:
        phases: what trains (`head`, `layer4` with the head, `all`) and for how many epochs, in turn.
        augment: random-resized crop and flip instead of resize and centre crop, for training images.
        runs: how often it is done, over SWEEP; validation follows each epoch.
    """

    title: str
    phases: tuple[tuple[str, int], ...]
    augment: bool
    runs: int = 1

    @property
    def epochs(self) -> int:
        return sum(epochs for _, epochs in self.phases)


WORKLOADS = {
    "w1a": Workload("W1a: head only, 5 epochs, resize and centre crop", (("head", 5),), augment=False),
    "w1b": Workload("W1b: head only, 5 epochs, random-resized crop and flip", (("head", 5),), augment=True),
    "w2": Workload("W2: everything, 1 epoch, random-resized crop and flip", (("all", 1),), augment=True),
    "w3": Workload(
        "W3: gradual: head 2 epochs, layer4 and head 1, everything 1, random-resized crop and flip",
        (("head", 2), ("layer4", 1), ("all", 1)),
        augment=True,
    ),
    "w4": Workload(
        "W4: a sweep: W1a 12 times, over optimizer × momentum × learning rate", (("head", 5),), augment=False, runs=12
    ),
}
SWEEP = [
    (optimizer, momentum, lr)
    for optimizer in ("sgd", "rmsprop")
    for momentum in (0.0, 0.9)
    for lr in (1e-3, 3e-3, 1e-2)
]


def read_args() -> argparse.Namespace:
    """The command line of a peer's script; `task` is its Workload."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="torchvision state dict of a ResNet-18, 10 classes")
    parser.add_argument("--workload", choices=tuple(WORKLOADS), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for what the peer writes by itself")
    parser.add_argument("--report", type=Path, required=True, help="file for what the benchmark asks")
    parser.add_argument("--optimizer", choices=("sgd", "rmsprop"), default="sgd")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="channels-last and bf16")
    args = parser.parse_args()
    args.task = WORKLOADS[args.workload]
    return args


def report(args: argparse.Namespace, *, accuracy: float, steps: int) -> None:
    """Write the accuracy on the validation images after the last epoch and the number of optimizer steps."""
    args.report.write_text(json.dumps({"accuracy": float(accuracy), "steps": int(steps)}))
