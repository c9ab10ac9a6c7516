"""The machine's own limit: the bare model and large matrix products in tight loops, and the loaders alone.

Usage: python -m scripts.benchmark.contest.limits DATA WEIGHTS [--seconds 4]

Prints one JSON object. Rates are the best of several rounds, since a limit is what the machine can do when nothing
disturbs it: images (or billions of operations) per second of the clock and per second of processor time. The model runs
in the best layout and precision (channels-last, bf16 where the hardware has it), on images that are in memory; the
allocator keeps what it has freed (as the benchmark starts it), which is its best setting for this. Image files are read
once before, so that the loader that comes first does not wait for the disk alone.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from scripts.benchmark.contest.peers.task import BATCH, CLASSES, IMAGE_SIZE, RESIZED
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from frostline.commands.trainer import native_precision
from frostline.data.datamodule import ImageDataModule
from frostline.data.image_folder import ImageFolder
from frostline.data.transforms import Augmentation

FORWARD_GFLOP = 3.63  # of ResNet-18 at 224 pixels, a multiplication and an addition counted as two
SIDE = 4096


def rate(work: Callable[[], int], *, seconds: float) -> dict[str, float]:
    """The best of rounds that last `seconds` together; `work` returns how much it did."""
    work()
    wall, cpu = 0.0, 0.0
    end = time.perf_counter() + seconds
    while True:
        clock, processor = time.perf_counter(), time.process_time()
        done = work()
        wall = max(wall, done / (time.perf_counter() - clock))
        cpu = max(cpu, done / (time.process_time() - processor))
        if time.perf_counter() >= end:
            return {"wall": wall, "cpu": cpu}


def network(weights: Path) -> torch.nn.Module:
    model = models.resnet18(num_classes=CLASSES)
    model.load_state_dict(torch.load(weights))
    return model.to(memory_format=torch.channels_last)


def pixels() -> torch.Tensor:
    return torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE).contiguous(memory_format=torch.channels_last)


def forward_rate(weights: Path, *, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """Images per second through the whole network in eval mode."""
    model, images = network(weights).eval().to(dtype), pixels().to(dtype)

    @torch.inference_mode()
    def work() -> int:
        model(images)
        return BATCH

    return rate(work, seconds=seconds)


def step_rate(weights: Path, *, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """Images per second of forward, backward and SGD step over everything."""
    model, images, labels = network(weights).train(), pixels(), torch.arange(BATCH) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    def work() -> int:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return BATCH

    return rate(work, seconds=seconds)


def product_rate(*, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """Billions of operations per second of a large matrix product."""
    left, right = torch.randn(SIDE, SIDE).to(dtype), torch.randn(SIDE, SIDE).to(dtype)

    def work() -> int:
        torch.mm(left, right)
        return 1

    found = rate(work, seconds=seconds)
    return {clock: value * 2e-9 * SIDE**3 for clock, value in found.items()}


def loader_rates(data: Path, *, augment: str, seconds: float) -> dict[str, dict[str, float]]:
    """Training images per second from frostline's loader, and from the tutorial's without workers."""
    module = ImageDataModule(
        source=ImageFolder(path=data),
        image_size=IMAGE_SIZE,
        batch_size=BATCH,
        resize=RESIZED / IMAGE_SIZE,
        augment=Augmentation(name=augment),
    )
    random = [transforms.RandomResizedCrop(IMAGE_SIZE), transforms.RandomHorizontalFlip()]
    centre = [transforms.Resize(RESIZED), transforms.CenterCrop(IMAGE_SIZE)]
    normalize = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    way = transforms.Compose([*(centre if augment == "none" else random), *normalize])
    plain = DataLoader(datasets.ImageFolder(data / "train", way), batch_size=BATCH, shuffle=True)

    def counted(loader: Callable[[], object]) -> Callable[[], int]:
        def work() -> int:
            seen, end = 0, time.perf_counter() + seconds / 2
            for images, _ in loader():
                seen += len(images)
                if time.perf_counter() > end:
                    break
            return seen

        return work

    return {
        "frostline": rate(counted(module.train_dataloader), seconds=seconds),
        "plain": rate(counted(lambda: plain), seconds=seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    best = torch.bfloat16 if native_precision("cpu") == "bf16-mixed" else torch.float32
    seconds = options.seconds
    for file in options.data.rglob("*"):
        if file.is_file():
            file.read_bytes()
    print(
        json.dumps(
            {
                "precision": str(best).removeprefix("torch."),
                "threads": torch.get_num_threads(),
                "forward": forward_rate(options.weights, dtype=best, seconds=seconds),
                "step": step_rate(options.weights, dtype=best, seconds=seconds),
                "product": product_rate(dtype=best, seconds=seconds),
                "product_float32": product_rate(dtype=torch.float32, seconds=seconds),
                "loading_centre": loader_rates(options.data, augment="none", seconds=seconds),
                "loading_crop": loader_rates(options.data, augment="crop", seconds=seconds),
                "forward_gflop": FORWARD_GFLOP,
            }
        )
    )


if __name__ == "__main__":
    main()
