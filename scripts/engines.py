"""Compare the engines of the frozen layers on this machine: speed, and distance from torch in float32.

python scripts/engines.py          the table of docs/engines.md, about a minute
python scripts/engines.py --write  writes it there

ResNet-18 at 224 px without its head, random weights, statistics of batch norms as on its own images. Each time is the
smallest of several batches. The distance is that of features: the largest difference as a share of the largest
feature, and 1 less the cosine of the whole batches.
"""

import argparse
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from frostline.freezing import FreezePolicy, apply_phase
from frostline.prefix.engine import Engine, openvino_core
from frostline.prefix.engine_names import EngineName
from frostline.prefix.split_model import SplitModel, split_at_frost_line

PAGE = Path(__file__).resolve().parents[1] / "docs/engines.md"
BATCH, REPEATS = 16, 5
BEGIN, END = "<!-- engines -->\n", "<!-- /engines -->"


def network() -> nn.Module:
    torch.manual_seed(0)
    built = resnet18().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain average
        built.train()(images(16, seed=1))
    return built


def images(count: int, *, seed: int) -> Tensor:
    drawn = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(seed))
    return drawn.to(memory_format=torch.channels_last)


def split(built: nn.Module, name: EngineName) -> SplitModel:
    phase = FreezePolicy.static("head").resolve(built).phases[0]
    apply_phase(built, phase)
    model = split_at_frost_line(built, trainable=phase.trainable, held=phase.eval_modules, engine=Engine(name))
    assert model is not None
    return model


def rows() -> Iterator[str]:
    built, batch = network(), images(BATCH, seed=2)
    exact = split(built, "torch").prefix(batch)
    yield "| engine | precision | ms an image | conversion, s | largest difference | 1 - cosine |"
    yield "|---|---|---|---|---|---|"
    for name in ("torch", "openvino"):
        for precision in ("float32", "bf16"):
            model = split(built, name)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                began = time.perf_counter()
                features = model.prefix(batch).float()
                first = time.perf_counter() - began
                milliseconds = fastest(model, batch)
            conversion = f"{first - milliseconds * BATCH / 1000:.1f}" if name != "torch" else "-"
            difference = (features - exact).abs().max() / exact.abs().max()
            cosine = torch.cosine_similarity(features.double().flatten(), exact.double().flatten(), dim=0)
            yield f"| {name} | {precision} | {milliseconds:.1f} | {conversion} | {difference:.1e} | {1 - cosine:.1e} |"


def fastest(model: SplitModel, batch: Tensor) -> float:
    """Milliseconds an image."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        model.prefix(batch)
        times.append(time.perf_counter() - began)
    return min(times) / len(batch) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/engines.md")
    write = parser.parse_args().write
    processor = openvino_core().get_property("CPU", "FULL_DEVICE_NAME")
    versions = f"torch {torch.__version__}, OpenVINO {version('openvino')}"
    about = f"{processor}, {torch.get_num_threads()} threads, {versions}, batches of {BATCH}."
    table = "\n".join([*rows(), "", about, ""])
    print(table)
    if write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + table + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
