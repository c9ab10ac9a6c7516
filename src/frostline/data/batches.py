"""From samples to batches: what the loaders' workers run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from frostline.data.order import Draw
from frostline.data.seeding import seeded
from frostline.data.source import LabelledImages
from frostline.data.threads import one_thread
from frostline.data.transforms import Augmentation, Transform, mix_batch

Target = int | torch.Tensor


class TrainingImages(Dataset[tuple[Draw, torch.Tensor, Target]]):
    """Augmented samples by `Draw`: a sample is a pure function of (seed, epoch, position), whoever computes it.

    Randomness is torch's global generator, seeded anew for each sample and put back afterwards; a transform that draws
    from numpy's or Python's generator is not reproducible here.
    """

    def __init__(self, images: LabelledImages, *, transform: Transform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Draw, torch.Tensor, Target]:
        with one_thread(), seeded(self.seed, "augment", draw.epoch, draw.position):
            image, target = self.images[draw.sample]
            return draw, self.transform(image), target


class EvaluationImages(Dataset[tuple[torch.Tensor, Target]]):
    """Samples by index, as evaluation sees them."""

    def __init__(self, images: LabelledImages, *, transform: Transform) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        image, target = self.images[index]
        with one_thread():
            return self.transform(image), target


class TrainingCollate:
    """Stacks samples and mixes them (mixup, CutMix); the mix is keyed by (seed, epoch, first position)."""

    def __init__(self, *, augment: Augmentation, classes: int, seed: int) -> None:
        self.augment = augment
        self.classes = classes
        self.seed = seed

    def __call__(self, samples: Sequence[tuple[Draw, torch.Tensor, Target]]) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = stack([(image, target) for _, image, target in samples])
        first = samples[0][0]
        with seeded(self.seed, "mix", first.epoch, first.position):
            return mix_batch(images, targets, augment=self.augment, classes=self.classes)


def stack(samples: Sequence[tuple[torch.Tensor, Target]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(batch, 3, height, width)`; targets int64 `(batch,)`, or float32 `(batch, classes)` where soft."""
    images = torch.stack([image for image, _ in samples])
    targets = [target for _, target in samples]
    if isinstance(targets[0], torch.Tensor) and targets[0].ndim:
        return images, torch.stack([torch.as_tensor(target, dtype=torch.float32) for target in targets])
    return images, torch.tensor([int(target) for target in targets], dtype=torch.int64)


class ResumableLoader(DataLoader[Any]):
    """A loader whose sampler starts where the run stands.

    Lightning asks a loader for its state and warns of one that has none. The position is the run's `global_step`, so
    the state is empty: a position counted in the loader is wrong by what the workers prefetched.
    """

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to load; see the class."""
