"""The datamodule: one source's splits as loaders whose batches depend on the seed and the step, and on nothing else."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import lightning
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset

from frostline.data.batches import (
    EvaluationImages,
    PlacedBatches,
    ResumableLoader,
    TrainingCollate,
    TrainingImages,
    WatchedLoader,
    stack,
    unchanged,
)
from frostline.data.cores import usable_cores
from frostline.data.loading import Loading, auto_workers, check_trainer
from frostline.data.order import (
    SAMPLING,
    ResumableBatchSampler,
    SampleIndex,
    UnpaddedDistributedSampler,
    epoch_order,
    per_rank,
    position_after,
)
from frostline.data.source import ImageSource, LabelledImages, ScalableImages
from frostline.data.spec import DataSpec
from frostline.data.splits import NAMES_AND_LABELS, SourceSplits
from frostline.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    Augmentation,
    Transform,
    checked_normalisation,
    evaluation_transform,
    shorter_side,
    training_transform,
)


def limited(batches: int, limit: int | float | None) -> int:
    """Batches under a limit of Lightning's Trainer: a number of them, or as a float a share."""
    if limit is None:
        return batches
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)


def full_batches(images: int, batch_size: int) -> int:
    """Training batches of so many images: what is left over is skipped, but for a batch that is the only one."""
    return max(1, images // batch_size)


class ImageDataModule(SourceSplits, lightning.LightningDataModule):
    """Loaders for training, validation and test over one source.

    A batch is `(images, targets)`: images uint8 `(batch, 3, image_size, image_size)`, or float32 where the source gives
    float images, not normalised (`mean` and `std` are for the model, on the device); targets int64 `(batch,)`, or
    float32 `(batch, classes)` where labels are soft or mixed.

    Training batches are a pure function of (seed, epoch, place in the epoch), and each new iterator starts at the batch
    that follows the trainer's `global_step`: see `frostline.data.order`.

    Args:
        source: see `frostline.data.source`.
        image_size: height and width in pixels.
        batch_size: global; divided among the ranks.
        resize: evaluation resizes the shorter side to `image_size * resize` before it takes the centre.
        interpolation: of a resize, `bilinear` or `bicubic`.
        sampling: `shuffled`, or `balanced`: every class equally often.
        mean: red, green, blue, on the scale [0, 1]; None for the source's own, else ImageNet's.
        std: the same of the standard deviations.
        same_batches: every epoch takes the batches of the first one, to overfit on a few of them.
    """

    def __init__(
        self,
        *,
        source: ImageSource,
        image_size: int = 64,
        batch_size: int = 32,
        resize: float = 1.0,
        interpolation: str = "bilinear",
        augment: Augmentation = Augmentation(),  # noqa: B008 - frozen
        sampling: str = "shuffled",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        loading: Loading = Loading(),  # noqa: B008 - frozen
        seed: int = 0,
        same_batches: bool = False,
    ) -> None:
        super().__init__(source)
        if sampling not in SAMPLING:
            raise ValueError(f"Unknown sampling {sampling!r}; choose from {', '.join(SAMPLING)}.")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"Unknown interpolation {interpolation!r}; choose from {', '.join(INTERPOLATIONS)}.")
        if image_size < 1 or batch_size < 1:
            raise ValueError(f"image_size={image_size} and batch_size={batch_size} must be at least 1.")
        if not 1 <= resize < math.inf:
            raise ValueError(
                f"resize={resize} must be finite and at least 1: the centre crop would reach beyond the image."
            )
        self.image_size = image_size
        self.batch_size = batch_size
        self.resize = resize
        self.interpolation = interpolation
        self.augment = augment
        self.sampling = sampling
        self.mean = checked_normalisation(mean, getattr(source, "mean", IMAGENET_MEAN), "mean")
        self.std = checked_normalisation(std, getattr(source, "std", IMAGENET_STD), "std")
        self.loading = loading
        self.seed = seed
        self.same_batches = same_batches
        self._replaced: dict[str, Any] = {}
        self._epochs_without_trainer = 0

    @property
    def spec(self) -> DataSpec:
        """What a classifier has to know of this data."""
        return DataSpec(
            classes=self.classes,
            mean=self.mean,
            std=self.std,
            image_size=self.image_size,
            resize=self.resize,
            interpolation=self.interpolation,
            scaled_decoding=bool(getattr(self.source, "scaled_decoding", False)),
        )

    @property
    def order_key(self) -> dict[str, int | str]:
        """What the order of samples depends on: a run resumed under another key would see other samples."""
        images = self.images("train")
        chunks = getattr(images, "chunks", None)
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "sampling": self.sampling,
            "training images": 0 if images is None else len(images),
            **({NAMES_AND_LABELS: self.names_and_labels} if self.names_and_labels else {}),
            **({"same_batches": True} if self.same_batches else {}),
            **({} if chunks is None else chunks.order_key),
        }

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of one epoch, after the trainer's `limit_train_batches`."""
        images = self._required("train")
        batches = full_batches(len(images), self.batch_size)
        return limited(batches, None if self.trainer is None else self.trainer.limit_train_batches)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch: an epoch's last batch ends a step, however few batches it accumulated."""
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        return -(-self.batches_per_epoch // accumulate)

    def prepare_data(self) -> None:
        """Check the images of a stage; Lightning calls it in one process of each machine, and the others wait."""
        needed = {TrainerFn.FITTING: ("train", "val"), TrainerFn.VALIDATING: ("val",), TrainerFn.TESTING: ("test",)}
        if self.trainer is not None and self.trainer.state.fn in needed:
            self.check_images(needed[self.trainer.state.fn])

    def setup(self, stage: str) -> None:
        """Read the splits that the stage needs, so that their errors come before the first step."""
        for split in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            self.images(split)

    def train_dataloader(self) -> ResumableLoader:
        images = self._required("train")
        rank, world_size = self._place()
        if self.trainer is not None:
            check_trainer(self.trainer)
        if self.sampling == "balanced" and images.labels is None:
            raise ValueError("sampling=balanced needs one class per image; these labels are soft. Use shuffled.")
        batches = self._batch_sampler(self._position, rank=rank, world_size=world_size)
        options = {"batch_sampler": batches, "expected": self._at, **self.fetching(len(images))}
        if "train" in self._replaced:
            return ResumableLoader(PlacedBatches(self._replaced["train"]), collate_fn=unchanged, **options)
        decoded, transform = self.images_and_transform("train")
        return ResumableLoader(
            TrainingImages(decoded, transform=transform, seed=self.seed),
            collate_fn=TrainingCollate(augment=self.augment, classes=len(self.classes), seed=self.seed),
            **options,
        )

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        return self.evaluation_loader("test")

    def first_batch(self, *, at_most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first training batch of a run as the network sees it, whatever datasets are replaced.

        Args:
            at_most: images, unless a mix of images needs the whole batch.
        """
        decoded, transform = self.images_and_transform("train")
        indices = next(iter(self._batch_sampler(lambda: (0, 0))))
        if not self.augment.mixup and not self.augment.cutmix:
            indices = indices[:at_most]
        samples = TrainingImages(decoded, transform=transform, seed=self.seed)
        collate = TrainingCollate(augment=self.augment, classes=len(self.classes), seed=self.seed)
        images, targets = collate([samples[index] for index in indices]).batch
        return images, targets

    def evaluation_loader(self, split: str) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Each sample exactly once over all ranks; an empty list where the source has no such split."""
        images = self.images(split)
        if images is None:
            return []
        rank, world_size = self._place()
        if len(images) < world_size:
            raise ValueError(f"There are {len(images)} {split} images for {world_size} ranks; each needs at least one.")
        dataset = self._replaced.get(split)
        collate: Callable[[Any], Any] = unchanged
        if dataset is None:
            decoded, transform = self.images_and_transform(split)
            dataset, collate = EvaluationImages(decoded, transform=transform), stack
        return WatchedLoader(
            dataset,
            sampler=UnpaddedDistributedSampler(images, rank=rank, world_size=world_size),
            batch_size=per_rank(self.batch_size, world_size=world_size),
            collate_fn=collate,
            **self.fetching(len(images)),
        )

    @property
    def drawn_per_epoch(self) -> int:
        """Samples that training draws in an epoch that no option shortens."""
        batches = self._batch_sampler(self._position)
        return len(batches) * batches.batch_size

    def drawn(self, until: int) -> Iterator[list[SampleIndex]]:
        """The samples that training draws from the run's position to an optimizer step, epoch by epoch."""
        assert self.trainer is not None
        step, accumulate = self.trainer.global_step, self.trainer.accumulate_grad_batches
        while step < until:
            place = partial(position_after, step, batches=self.batches_per_epoch, accumulate=accumulate)
            epoch, first = place()
            count = min(self.batches_per_epoch - first, (until - step) * accumulate)
            yield [index for batch in islice(self._batch_sampler(place), count) for index in batch]
            step = (epoch + 1) * self.steps_per_epoch
            if self.same_batches and first == 0:
                return

    def evaluated(self, split: str, limit: int | float | None) -> int:
        """Samples that an evaluation of a split takes, over all ranks, under a limit of Lightning's Trainer."""
        images, (_, ranks) = len(self._required(split)), self._place()
        batches = math.ceil(math.ceil(images / ranks) / per_rank(self.batch_size, world_size=ranks))
        return min(images, limited(batches, limit) * self.batch_size)

    def replace_datasets(self, datasets: Mapping[str, Dataset[Any]]) -> None:
        """Let future loaders of these splits take batches from these datasets; other splits, from their images.

        Args:
            datasets: split -> a dataset whose `__getitems__` gives a batch for a list of indices: `SampleIndex` in
                training, int in evaluation.
        """
        self._replaced = dict(datasets)

    def images_and_transform(self, split: str) -> tuple[LabelledImages, Transform]:
        """A split's images as they are decoded, and the transform that gives the network's input."""
        images = self._required(split)
        sizes: Any = {"image_size": self.image_size, "resize": self.resize, "interpolation": self.interpolation}
        if split == "train":
            return self.decoded(images, self.augment), training_transform(self.augment, **sizes)
        return self.decoded(images), evaluation_transform(**sizes)

    def decoded(self, images: LabelledImages, augment: Augmentation | None = None) -> LabelledImages:
        """A split's images as a transform reads them: at reduced size, and from the cache of decoded images.

        Args:
            augment: None for evaluation.
        """
        if not isinstance(images, ScalableImages):
            return images
        if augment is not None and augment.own is not None:  # which may look at any part of the image
            return images
        return images.for_shorter_side(shorter_side(image_size=self.image_size, resize=self.resize, augment=augment))

    def _batch_sampler(
        self, position: Callable[[], tuple[int, int]], *, rank: int = 0, world_size: int = 1
    ) -> ResumableBatchSampler:
        return ResumableBatchSampler(
            order=self._order,
            length=len(self._required("train")),
            batch_size=self.batch_size,
            position=position,
            rank=rank,
            world_size=world_size,
        )

    def _required(self, split: str) -> LabelledImages:
        images = self.images(split)
        if images is None:
            raise ValueError(f"{type(self.source).__name__} has no {split} images.")
        return images

    def _order(self, epoch: int) -> torch.Tensor:
        images = self._required("train")
        return epoch_order(
            0 if self.same_batches else epoch,
            length=len(images),
            sampling=self.sampling,
            labels=images.labels if self.sampling == "balanced" else None,
            chunks=getattr(images, "chunks", None),
            seed=self.seed,
        )

    def _position(self) -> tuple[int, int]:
        if (place := self._at()) is not None:
            return place
        # A loop written by hand: each new iterator is the next epoch.
        self._epochs_without_trainer += 1
        return self._epochs_without_trainer - 1, 0

    def _at(self) -> tuple[int, int] | None:
        """The epoch and its next batch by the trainer's `global_step`; None in a loop written by hand."""
        if self.trainer is None:
            return None
        return position_after(
            self.trainer.global_step,
            batches=self.batches_per_epoch,
            accumulate=self.trainer.accumulate_grad_batches,
        )

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def workers(self, length: int) -> int:
        """Loader processes of a rank for a split of so many images."""
        if self.loading.workers is not None:
            return self.loading.workers
        ranks_here = 1 if self.trainer is None else max(1, self.trainer.num_devices)
        return auto_workers(cores=usable_cores() // ranks_here, images=length, on_gpu=self._on_gpu)

    @property
    def threads_beside_workers(self) -> int | None:
        """Threads that a rank should compute with on a CPU, so that its training workers have a core each; None where
        there are none, or where a GPU computes."""
        workers = self.workers(len(self._required("train")))
        if not workers or self._on_gpu:
            return None
        ranks_here = 1 if self.trainer is None else max(1, self.trainer.num_devices)
        return max(1, usable_cores() // ranks_here - workers)

    @property
    def _on_gpu(self) -> bool:
        return self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator)

    def fetching(self, images: int) -> dict[str, Any]:
        """Options of a `WatchedLoader` of so many images."""
        return self.loading.options(workers=self.workers(images), on_gpu=self._on_gpu, seed=self.seed)
