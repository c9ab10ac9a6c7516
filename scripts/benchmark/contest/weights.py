"""The benchmark's initial weights: one ResNet-18 for all, trained a little on other classes than the benchmark's.

Usage: python -m scripts.benchmark.contest.weights FILE IMAGES [--given STATE_DICT]

Weights cannot be downloaded everywhere. From random ones a head would have nothing to go by, and an untouched batch
norm normalises nothing, which costs accuracy where it is kept frozen and not where it adapts: accuracies could not be
compared. So the network takes 100 steps on synthetic classes of another seed, and its batch-norm
statistics are taken on the benchmark's images, as those of a pretrained network fit the images that it is meant for.
With --given (a torchvision state dict, such as ImageNet's) those weights are taken as they are, with a new head.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from scripts.benchmark.contest.peers.task import BATCH, CLASSES, IMAGE_SIZE, RESIZED
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from frostline.data.synthetic import Synthetic

STEPS, OTHER_CLASSES, SIDE, LR = 100, 20, 64, 0.05
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATION_BATCHES = 4


def make_weights(file: Path, *, images: Path, given: Path | None = None, steps: int = STEPS) -> None:
    """Write the state dict of a ResNet-18 with the benchmark's ten classes."""
    torch.manual_seed(0)
    network = resnet18(num_classes=CLASSES)
    head = {f"fc.{name}": tensor.clone() for name, tensor in network.fc.state_dict().items()}
    if given is None:
        body = trained(steps)
        network.load_state_dict({**body, **head})
        calibrate(network, images)
    else:
        state = torch.load(given, weights_only=True)
        network.load_state_dict({**{k: v for k, v in state.items() if not k.startswith("fc.")}, **head})
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), file)


def trained(steps: int) -> dict[str, torch.Tensor]:
    """The body's state after so many steps on classes that are not the benchmark's."""
    network = resnet18(num_classes=OTHER_CLASSES).to(memory_format=torch.channels_last)
    source = Synthetic(length=steps * BATCH, classes=OTHER_CLASSES, image_size=SIDE, difficulty=0.5, seed=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    finish = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    for images, labels in DataLoader(source.dataset("train"), batch_size=BATCH):
        loss = F.cross_entropy(network(finish(images).contiguous(memory_format=torch.channels_last)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


@torch.no_grad()
def calibrate(network: nn.Module, folder: Path) -> None:
    """Batch-norm statistics of the benchmark's training images, averaged over some batches."""
    way = v2.Compose(
        [v2.PILToTensor(), v2.Resize(RESIZED), v2.CenterCrop(IMAGE_SIZE), v2.ToDtype(torch.float32, scale=True),
         v2.Normalize(MEAN, STD)]
    )  # fmt: skip
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    loader = DataLoader(
        ImageFolder(folder / "train", way), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    network.train()
    for place, (images, _) in enumerate(loader):
        if place == CALIBRATION_BATCHES:
            break
        network(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--given", type=Path)
    options = parser.parse_args()
    make_weights(options.file, images=options.images, given=options.given)


if __name__ == "__main__":
    main()
