"""What each part of the fast path is worth: the frozen part of a ResNet-18, made cheaper step by step, in one run.

Usage: OMP_NUM_THREADS=1 python scripts/benchmark/prefix.py [--batch-size 32] [--image-size 224] [--rounds 5] [--write]

The ways take turns within each round, so that a drift of the machine meets all alike; the figure is the median of the
rounds, in milliseconds of processor time per image, which other programs disturb less than the clock. The allocator's
settings cannot be undone within a process, so each of its two states runs in a process of its own; its memory is the
peak of that process. `--write` puts the table into docs/benchmarks-history.md.
"""

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by its path, Python looks in this folder only

import torch
from scripts.benchmark.document import processor, put_section
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet18

from frostline.commands.allocator import keep_freed_memory
from frostline.freezing.apply import apply_phase
from frostline.freezing.policy import FreezePolicy
from frostline.prefix.split_model import SplitModel, split_at_frost_line

ROOT = Path(__file__).resolve().parents[2]
BASE = "frozen weights, batch norm in training mode (tutorials)"


def line_of(network: nn.Module) -> SplitModel:
    phase = FreezePolicy.static("head").resolve(network).phases[0]
    apply_phase(network, phase)
    line = split_at_frost_line(network, trainable=phase.trainable, held=phase.eval_modules)
    assert line is not None
    return line


def folded(network: nn.Module) -> nn.Module:
    """The network with each batch norm folded into the convolution before it."""
    network = copy.deepcopy(network).eval()
    network.conv1, network.bn1 = fuse_conv_bn_eval(network.conv1, network.bn1), nn.Identity()
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in layer:
            block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
            block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
            if block.downsample is not None:
                block.downsample = nn.Sequential(fuse_conv_bn_eval(*block.downsample))
    return network


def ways(images: Tensor) -> dict[str, Callable[[], object]]:
    """Each way to compute the features of a batch."""
    torch.manual_seed(0)
    network = resnet18()
    norms_train, training = copy.deepcopy(network), copy.deepcopy(network).train()
    for name, parameter in norms_train.named_parameters():
        # BackboneFinetuning and fastai leave the batch norms of the frozen part trainable.
        parameter.requires_grad_("bn" in name or "downsample.1" in name)
    for parameter in training.parameters():
        parameter.requires_grad_(False)
    last, last_images = torch.channels_last, images.contiguous(memory_format=torch.channels_last)
    plain = line_of(copy.deepcopy(network))
    frostline = line_of(copy.deepcopy(network).to(memory_format=last))
    folded_network = folded(network).to(memory_format=last)
    folded_line = SplitModel(network=folded_network, before=frostline.before, after=frostline.after)

    def backward() -> None:
        norms_train(images).sum().backward()

    def bf16(line: SplitModel, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return line.prefix(inputs)

    return {
        "batch norms train too (BackboneFinetuning, fastai): forward and backward": backward,
        BASE: lambda: training(images),
        "eval, no graph": lambda: plain.prefix(images),
        "eval, no graph, channels-last": lambda: frostline.prefix(last_images),
        "… batch norm folded": lambda: folded_line.prefix(last_images),
        "eval, no graph, channels-last, bf16: frostline": lambda: bf16(frostline, last_images),
        "… batch norm folded, bf16": lambda: bf16(folded_line, last_images),
    }


def measured(*, batch_size: int, image_size: int, rounds: int) -> dict[str, object]:
    """Median milliseconds of processor time per image of each way, and the peak memory of this process in MB."""
    images = torch.rand(batch_size, 3, image_size, image_size)
    all_ways = ways(images)
    times: dict[str, list[float]] = {name: [] for name in all_ways}
    for turn in range(rounds + 1):
        for name, way in all_ways.items():
            began = time.process_time()
            way()
            if turn:  # the first round warms up
                times[name].append(1000 * (time.process_time() - began) / batch_size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"ms": {name: round(median(found), 2) for name, found in times.items()}, "peak_mb": round(peak)}


def table(default: dict, kept: dict, *, about: str) -> str:
    base = default["ms"][BASE]
    rows = [
        f"| {name} | {default['ms'][name]:.1f} | {base / default['ms'][name]:.2f} | {kept['ms'][name]:.1f} "
        f"| {base / kept['ms'][name]:.2f} |"
        for name in default["ms"]
    ]
    return "\n".join(
        [
            "## What each part of the fast path is worth",
            "",
            "Features of a frozen ResNet-18, milliseconds of processor time per image; × is the gain over the first "
            "line of tutorials. The last two columns with `speed.allocator` (glibc keeps freed memory).",
            "",
            "| way | ms | × | ms, allocator | ×, allocator |",
            "|---|---:|---:|---:|---:|",
            *rows,
            "",
            f"Peak memory of the process: {default['peak_mb']:,} MB, with the allocator's settings "
            f"{kept['peak_mb']:,} MB.",
            "",
            about,
            "",
            "```",
            "OMP_NUM_THREADS=1 python scripts/benchmark/prefix.py --write",
            "```",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks-history.md")
    parser.add_argument("--inside", choices=["default", "kept"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {"batch_size": options.batch_size, "image_size": options.image_size, "rounds": options.rounds}
    if options.inside:
        if options.inside == "kept" and not keep_freed_memory():
            sys.exit("This system's C library is not glibc.")
        print(json.dumps(measured(**sizes)))
        return
    words = [word for name, value in sizes.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    found = {}
    for state in ("default", "kept"):
        command = [sys.executable, __file__, "--inside", state, *words]
        found[state] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    about = (
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {torch.get_num_threads()} thread, torch {torch.__version__}, "
        f"batch {options.batch_size} of {options.image_size} px, {options.rounds} rounds, load average "
        f"{os.getloadavg()[0]:.1f}."
    )
    text = table(found["default"], found["kept"], about=about)
    print(text)
    if options.write:
        put_section(ROOT / "docs/benchmarks-history.md", "prefix", text)


if __name__ == "__main__":
    main()
