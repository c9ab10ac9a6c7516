"""Training steps of ResNet-18 behind frostline's frost line, as a device runs them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from frostline.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from frostline.freezing.apply import apply_phase
from frostline.freezing.policy import FreezePolicy
from frostline.prefix.split_model import split_at_frost_line
from frostline.prefix.store import FeatureStore, Rows, open_store

CLASSES, FEATURES, STORED = 10, 512, 4096
# What trains, by the words of `freeze.train`.
WORKLOADS = {
    "full": ("everything", ("all",)),
    "layer3": ("from layer3", ("from:layer3",)),
    "layer4": ("from layer4", ("from:layer4",)),
    "head": ("head only, from images", ("head",)),
    "cached": ("head only, from cached features", ("head",)),
}
MODES = {"eager": "eager", "compile": "torch.compile", "graph": "CUDA graph"}


class Behind(nn.Module):
    """From uint8 images (batch, 3, height, width), or from features (batch, 512), to logits, as a run would get there.

    A module, so that DistributedDataParallel can wrap it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, workload: str, compiled: bool = False) -> None:
        super().__init__()
        self.network = resnet18(num_classes=CLASSES)
        phase = FreezePolicy.static(*WORKLOADS[workload][1]).resolve(self.network).phases[0]
        apply_phase(self.network, phase)
        self.line = split_at_frost_line(
            self.network, trainable=phase.trainable, held=phase.eval_modules, compiled=compiled
        )
        self.from_features = workload == "cached"
        if compiled and self.line is None:
            self.network.compile()
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, batch: Tensor) -> Tensor:
        if self.from_features:
            assert self.line is not None
            return self.line.suffix(batch)
        pixels = ((batch.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.network(pixels) if self.line is None else self.line.suffix(self.line.prefix(pixels))


def make_step(
    module: nn.Module, batch: Tensor, labels: Tensor, *, cache_casts: bool = True
) -> tuple[Callable[[], Tensor], torch.optim.Optimizer]:
    """A step in bf16 autocast with fused SGD, on one batch; and the optimizer."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch.device.type, torch.bfloat16, cache_enabled=cache_casts):
            loss = F.cross_entropy(module(batch), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step, optimizer


def make_batch(workload: str, *, batch_size: int, image_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch on the device: uint8 images, or bf16 features as they are kept; and labels."""
    labels = torch.arange(batch_size, device=device) % CLASSES
    if workload == "cached":
        return torch.zeros(batch_size, FEATURES, dtype=torch.bfloat16, device=device), labels
    size = (batch_size, 3, image_size, image_size)
    return torch.randint(0, 256, size, dtype=torch.uint8, device=device), labels


def make_store(root: Path) -> FeatureStore:
    """A store of random features after layer4, 1 KB each."""
    rows = Rows(count=STORED, shape=(FEATURES,), dtype="bfloat16", strides=(1,))
    store = open_store(root, key="gpu", rows=rows, limit_bytes=10**9, about={})
    features = torch.rand(STORED, FEATURES, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    store.write(np.arange(STORED), features)
    return store


def reading(store: FeatureStore, batch: Tensor, step: Callable[[], object]) -> Callable[[], None]:
    """The step, each time on other features, read from the store and copied to the device."""
    random = np.random.default_rng(0)

    def with_reading() -> None:
        features, found = store.read(random.integers(0, STORED, len(batch)))
        if not found.all():
            raise RuntimeError("a row of the store is corrupt")
        batch.copy_(features.pin_memory() if batch.is_cuda else features, non_blocking=True)
        step()

    return with_reading


def captured(step: Callable[[], object], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """The whole step as a CUDA graph: forward, backward and optimizer in one launch.

    Raises:
        RuntimeError: no CUDA device, or something in the step cannot be captured.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("CUDA graphs need a CUDA device")
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(11):  # DistributedDataParallel rebuilds its buckets within the first ten
            step()
    torch.cuda.current_stream().wait_stream(aside)
    optimizer.zero_grad(set_to_none=True)  # so that gradients lie in the graph's memory
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
