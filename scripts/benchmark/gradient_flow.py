"""What logging the gradient flow costs in training: blocks of steps with and without it, in turns within one run.

Usage: OMP_NUM_THREADS=1 python scripts/benchmark/gradient_flow.py [--pairs 8] [--batch-size 32] [--image-size 64]
       [--every-n-steps 50] [--trainable ""] [--json result.json]

Every pair is a block of n steps that ends with a measurement and a block of n steps without, in changing order, so that
a drift of the machine meets both alike. Two figures, each a share of the time without: `ratio` compares the blocks, and
`in_callback` is the time spent inside the callback itself. On a CPU both are also given in processor time, which other
programs on the machine disturb less than the clock.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by its path, Python looks in this folder only

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from scripts.benchmark.document import processor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from frostline.autograd.gradient_flow import GradientFlow


class Classifier(pl.LightningModule):
    def __init__(self, trainable: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = resnet18(weights=None, num_classes=10)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name.startswith(tuple(trainable.split(","))))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


class Turns(GradientFlow):
    """Works in half of the blocks and takes the time of all; the order within a pair changes from pair to pair."""

    def __init__(self, *, every_n_steps: int) -> None:
        super().__init__(every_n_steps=every_n_steps, attribute="network")
        self.blocks: dict[bool, list[np.ndarray]] = {True: [], False: []}
        self.inside = np.zeros(2)
        self._start = self._now = np.zeros(2)

    def _active(self, step: int) -> bool:
        block = step // self.every_n_steps
        return (block % 2 == 0) == (block // 2 % 2 == 0)

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._start = clocks(trainer)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self._active(trainer.global_step):
            start = clocks(None)
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            self._count(trainer.global_step, start)

    def on_train_batch_end(self, trainer, *rest) -> None:
        start = clocks(None)
        super().on_train_batch_end(trainer, *rest)
        self._count(trainer.global_step - 1, start)
        if trainer.global_step % self.every_n_steps == 0:
            self.blocks[self._active(trainer.global_step - 1)].append(clocks(trainer) - self._start)

    def _count(self, step: int, start: np.ndarray) -> None:
        if step >= 2 * self.every_n_steps:  # the first pair warms up
            self.inside += clocks(None) - start


def clocks(trainer: pl.Trainer | None) -> np.ndarray:
    """Seconds of the clock and of this process's processor time; with a trainer, after its device is done."""
    if trainer is not None:
        _wait(trainer.strategy.root_device)
    return np.array([time.perf_counter(), time.process_time()])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--every-n-steps", type=int, default=50)
    parser.add_argument("--trainable", default="", help="prefixes of the parameters that train; empty is all")
    parser.add_argument("--json", help="file for the result")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    blocks = 2 * (options.pairs + 1)  # the first pair warms up
    images = torch.rand(options.batch_size * 8, 3, options.image_size, options.image_size)
    loader = DataLoader(TensorDataset(images, torch.randint(10, (len(images),))), batch_size=options.batch_size)
    turns = Turns(every_n_steps=options.every_n_steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=blocks * options.every_n_steps, max_epochs=-1, default_root_dir=folder, logger=CSVLogger(folder),
            callbacks=[turns], devices=1, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Classifier(options.trainable), loader)
        device = trainer.strategy.root_device
    active, idle = (np.array(turns.blocks[kind][1:]) for kind in (True, False))
    on_cpu = device.type == "cpu"
    result = {
        "device": _name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **vars(options),
        "ms_per_step_without": round(1000 * float(idle[:, 0].mean()) / options.every_n_steps, 2),
        "ratio": _rounded(active.sum(0) / idle.sum(0))[0],
        "ratio_of_pairs": _rounded(active[:, 0] / idle[:, 0]),
        "ratio_in_processor_time": _rounded(active.sum(0) / idle.sum(0))[1] if on_cpu else None,
        "ratio_of_pairs_in_processor_time": _rounded(active[:, 1] / idle[:, 1]) if on_cpu else None,
        "in_callback": _rounded(turns.inside / idle.sum(0))[0] if on_cpu else None,
        "in_callback_in_processor_time": _rounded(turns.inside / idle.sum(0))[1] if on_cpu else None,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
