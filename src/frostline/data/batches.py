"""From samples to batches: what the loaders' workers run."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from frostline.data.order import ResumableBatchSampler, SampleIndex
from frostline.data.seeding import one_thread, seeded
from frostline.data.source import LabelledImages
from frostline.data.time_limit import with_limit
from frostline.data.transforms import Augmentation, Transform, mix_batch

Target = int | torch.Tensor


class TrainingImages(Dataset[tuple[SampleIndex, torch.Tensor, Target]]):
    """Augmented samples by `SampleIndex`: a sample is a pure function of (seed, epoch, position).

    Randomness is torch's global generator, seeded for each sample and restored afterwards; a transform that draws
    from numpy's or Python's generator is not reproducible here.
    """

    def __init__(self, images: LabelledImages, *, transform: Transform, seed: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SampleIndex) -> tuple[SampleIndex, torch.Tensor, Target]:
        with one_thread(), seeded(self.seed, "augment", index.epoch, index.position):
            image, target = self.images[index.sample]
            return index, self.transform(image), target


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


class Placed(NamedTuple):
    """A training batch and the index of its first sample: its place in the run."""

    first: SampleIndex
    batch: Any


class PlacedBatches(Dataset[Placed]):
    """A dataset of batches, each with the index of its first sample."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitems__(self, indices: Sequence[SampleIndex]) -> Placed:
        return Placed(indices[0], self.batches.__getitems__(indices))


class TrainingCollate:
    """Stacks samples and mixes them (mixup, CutMix); the mix is keyed by (seed, epoch, first position)."""

    def __init__(self, *, augment: Augmentation, classes: int, seed: int) -> None:
        self.augment = augment
        self.classes = classes
        self.seed = seed

    def __call__(self, samples: Sequence[tuple[SampleIndex, torch.Tensor, Target]]) -> Placed:
        images, targets = stack([(image, target) for _, image, target in samples])
        first = samples[0][0]
        with seeded(self.seed, "mix", first.epoch, first.position):
            return Placed(first, mix_batch(images, targets, augment=self.augment, classes=self.classes))


def stack(samples: Sequence[tuple[torch.Tensor, Target]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(batch, 3, height, width)`; targets int64 `(batch,)`, or float32 `(batch, classes)` where soft."""
    images = torch.stack([image for image, _ in samples])
    targets = [target for _, target in samples]
    if isinstance(targets[0], torch.Tensor) and targets[0].ndim:
        return images, torch.stack([torch.as_tensor(target, dtype=torch.float32) for target in targets])
    return images, torch.tensor([int(target) for target in targets], dtype=torch.int64)


def unchanged(batch: Any) -> Any:
    """The collation of a dataset that gives batches."""
    return batch


class WatchedLoader(DataLoader[Any]):
    """A loader whose batches are subject to a time limit (`frostline.data.time_limit`).

    Args:
        patience: seconds for a batch that this process reads itself, 0 for ever; `timeout` is the workers'.
    """

    def __init__(self, dataset: Dataset[Any], *, patience: float = 0.0, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.patience = patience

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches.

        Raises:
            TimeoutError: one did not come in time.
        """
        return with_limit(super().__iter__(), seconds=self.patience)


class ResumableLoader(WatchedLoader):
    """A loader of `Placed` batches that starts at the run's position, and checks it.

    Nothing is read before the first batch is requested: Lightning makes the iterator to find the run's length, before
    it has restored `global_step`.

    Lightning asks a loader for its state and warns of one that has none. The position is the run's `global_step`, so
    the state is empty: a position counted in the loader is wrong by what the workers prefetched.

    Args:
        expected: gives the run's epoch and batch, called when the first batch arrives; None: unknown.
    """

    def __init__(
        self, dataset: Dataset[Any], *, expected: Callable[[], tuple[int, int] | None], **options: Any
    ) -> None:
        super().__init__(dataset, **options)
        self.expected = expected

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches from the run's position on.

        Raises:
            TimeoutError: a batch did not come in time.
            ValueError: a batch belongs to another place in the run.
        """
        assert isinstance(self.batch_sampler, ResumableBatchSampler)
        place: tuple[int, int] | None = None
        for first, batch in super().__iter__():
            found = first.epoch, first.position // self.batch_sampler.batch_size
            place = (place[0], place[1] + 1) if place else self.expected() or found
            if found != place:
                raise ValueError(
                    f"The loader gave batch {found[1]} of epoch {found[0]}, but the run stands at batch {place[1]} of "
                    f"epoch {place[0]}: training would go on with the wrong images. Does a callback read from the "
                    "training loader? Give it a loader of its own (`datamodule.train_dataloader()`)."
                )
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to load; see the class."""
