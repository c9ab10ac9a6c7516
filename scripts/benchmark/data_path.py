"""What a batch costs before the network sees it: decoding, transforms and the whole pipeline, in turns within one run.

Usage: python scripts/benchmark/data_path.py [--images 48] [--photographs 6] [--rounds 3]
       [--write docs/benchmarks-history.md]

Processor time per image of this process, on one thread, the median of several rounds: the share of the machine that
others take shows in it far less than by the clock. Images are generated JPEGs; they lie in the page cache.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by its path, Python looks in this folder only

import numpy as np
import torch
from PIL import Image
from scripts.benchmark.document import put_section
from torchvision import transforms as tutorial
from torchvision.transforms import v2

from frostline.data.batches import EvaluationImages, TrainingImages, stack
from frostline.data.decoded_cache import decoded_cache
from frostline.data.files import FileImages, LabelledFile
from frostline.data.order import SampleIndex
from frostline.data.source import LabelledImages
from frostline.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    evaluation_transform,
    shorter_side,
)
from frostline.tracking.throughput import FETCH, Throughput

SIZE, RESIZE = 224, 1.143


def draw(width: int, height: int, *, seed: int) -> Image.Image:
    """Noise with a photograph's spectrum (amplitude 1/f) and a little of a sensor's."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / width)
    waves = np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.random((3, *amplitude.shape))), s=(height, width))
    pixels = 128 + 45 * waves / waves.std() + 4 * rng.standard_normal(waves.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def tutorials(files: Sequence[LabelledFile], *, crop: str) -> Callable[[int], Any]:
    """The pipeline of PyTorch's transfer-learning tutorial: Pillow images, floats, normalised one by one."""
    first = [tutorial.RandomResizedCrop(SIZE), tutorial.RandomHorizontalFlip()]
    if crop == "centre":
        first = [tutorial.Resize(256), tutorial.CenterCrop(SIZE)]
    transform = tutorial.Compose([*first, tutorial.ToTensor(), tutorial.Normalize(IMAGENET_MEAN, IMAGENET_STD)])

    def sample(index: int) -> Any:
        with Image.open(files[index].path) as image:
            return transform(image.convert("RGB")), files[index].label

    return sample


def frostlines(images: LabelledImages, *, crop: str) -> Callable[[int], Any]:
    if crop == "centre":
        return EvaluationImages(images, transform=evaluation_transform(image_size=SIZE, resize=RESIZE)).__getitem__
    # The tutorial's augmentation, so that both do the same work: frostline's own `standard` changes colours, too.
    steps = [v2.ToImage(), v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(), v2.ToPureTensor()]
    dataset = TrainingImages(images, transform=v2.Compose(steps), seed=0)
    return lambda index: dataset[SampleIndex(0, index, index)][1:]


def milliseconds(sample: Callable[[int], Any], count: int) -> float:
    """Processor time per image of batches of at most 16, collated."""
    start = time.process_time()
    for first in range(0, count, 16):
        stack([sample(index) for index in range(first, min(first + 16, count))])
    return 1000 * (time.process_time() - start) / count


def compared(ways: dict[str, Callable[[int], Any]], *, count: int, rounds: int) -> dict[str, float]:
    """The median of each way's milliseconds per image, the ways taking turns; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, sample in ways.items():
            taken[name].append(milliseconds(sample, count))
    return {name: round(statistics.median(values[1:]), 2) for name, values in taken.items()}


def measured(files: list[LabelledFile], folder: Path, *, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds per image: table -> way -> value."""
    whole, results = FileImages(files), {}
    results["decode"] = compared({"Pillow": lambda index: _bare(whole, index)}, count=len(files), rounds=rounds)
    for crop in ("centre", "random"):
        augment = None if crop == "centre" else Augmentation(name="standard")
        needed = shorter_side(image_size=SIZE, resize=RESIZE, augment=augment)
        scaled = FileImages(files, scaled_decoding=True)
        kept = FileImages(files, scaled_decoding=True, cache=decoded_cache(folder / "decoded", limit=50))
        ways = {
            "tutorial": tutorials(files, crop=crop),
            "frostline, scaled_decoding=false": frostlines(whole, crop=crop),
            "frostline": frostlines(scaled.for_shorter_side(needed), crop=crop),
            "frostline, decoded cache": frostlines(kept.for_shorter_side(needed), crop=crop),
        }
        results[crop] = compared(ways, count=len(files), rounds=rounds)
    return results


def _bare(images: LabelledImages, index: int) -> Any:
    return torch.zeros(1), int(images[index][0].width)


def throughput_cost(steps: int = 20_000) -> float:
    """Microseconds that `Throughput` adds to a step: its hook, and the two calls around each of a step's actions."""

    class Profiler:
        def start(self, action: str) -> None: ...

        def stop(self, action: str) -> None: ...

    profiler, callback, batch = Profiler(), Throughput(), (None, torch.zeros(32))
    plain = _profiled(profiler, steps)
    trainer = SimpleNamespace(profiler=profiler)
    callback.setup(trainer, None, "fit")
    start = time.process_time()
    for index in range(steps):
        callback.on_train_batch_end(None, None, None, batch, index)
    hook = time.process_time() - start
    return round(1e6 * (_profiled(trainer.profiler, steps) - plain + hook) / steps, 2)


def _profiled(profiler: Any, steps: int) -> float:
    actions = [FETCH, *(f"[Callback]Some.on_hook_{number}" for number in range(40))]  # about as many as a step has
    start = time.process_time()
    for _ in range(steps):
        for action in actions:
            profiler.start(action)
            profiler.stop(action)
    return time.process_time() - start


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| images | crop | pipeline | ms of processor time per image | images/s per core | ratio |"]
    lines.append("|---|---|---|---|---|---|")
    for images, parts in results.items():
        for crop in ("centre", "random"):
            base = parts[crop]["tutorial"]
            for name, value in parts[crop].items():
                lines.append(f"| {images} | {crop} | {name} | {value:.2f} | {1000 / value:,.0f} | {base / value:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48, help="of 500 x 375 pixels")
    parser.add_argument("--photographs", type=int, default=6, help="of 4000 x 3000 pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="file in whose section `data-path` the table goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for title, (width, height), count in (
            ("500 x 375", (500, 375), options.images),
            ("4000 x 3000", (4000, 3000), options.photographs),
        ):
            files = []
            for number in range(count):
                path = Path(name) / f"{width}_{number}.jpg"
                draw(width, height, seed=number).save(path, quality=90)
                files.append(LabelledFile(str(path), 0))
            results[title] = measured(files, Path(name), rounds=options.rounds)
    cost = throughput_cost()
    print(json.dumps({"torch": torch.__version__, "milliseconds": results, "throughput_us_per_step": cost}, indent=1))
    if options.write:
        decode = ", ".join(f"{parts['decode']['Pillow']:.2f} ms ({title})" for title, parts in results.items())
        part = (
            f"{table(results)}\n\nOf it, decoding whole images: {decode}. What `Throughput` adds to a training step: "
            f"{cost:.1f} µs."
        )
        put_section(options.write, "data-path", part)


if __name__ == "__main__":
    main()
