"""The datamodule: one source's splits as loaders whose batches depend on the seed and the step, and on nothing else."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from frostline.data.batches import (
    EvaluationImages,
    PlacedBatches,
    ResumableLoader,
    TrainingCollate,
    TrainingImages,
    WatchedLoader,
    stack,
)
from frostline.data.cores import usable_cores
from frostline.data.files import MOST_BROKEN, listed
from frostline.data.folders import BROKEN, composed
from frostline.data.keyed import KeyedImages, as_it_is
from frostline.data.order import SAMPLING, EpochBatches, EverySampleOnce, epoch_order, per_rank, position_after
from frostline.data.relabelled import RelabelledImages
from frostline.data.source import SPLITS, CheckableImages, ImageSource, LabelledImages, ScalableImages
from frostline.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Transform,
    checked_normalisation,
    evaluation_transform,
    shorter_side,
    training_transform,
)
from frostline.prefix.keyed import StoreSlot


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How batches are fetched.

    Attributes:
        workers: processes per rank and loader; None chooses, see `auto_workers`.
        timeout: seconds to wait for a batch before the run fails, 0 for ever. A read stuck on a dead network drive
            would otherwise hang the run silently.
    """

    workers: int | None = None
    timeout: float = 120.0


class ImageDataModule(lightning.LightningDataModule):
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
        sampling: `shuffled`, or `balanced`: every class equally often.
        mean, std: red, green, blue, on the scale [0, 1]; None for the source's own, else ImageNet's.
    """

    def __init__(
        self,
        *,
        source: ImageSource,
        image_size: int = 64,
        batch_size: int = 32,
        resize: float = 1.0,
        augment: Augmentation = Augmentation(),  # noqa: B008 - frozen
        sampling: str = "shuffled",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        loading: Loading = Loading(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if sampling not in SAMPLING:
            raise ValueError(f"Unknown sampling {sampling!r}; choose from {', '.join(SAMPLING)}.")
        if image_size < 1 or batch_size < 1:
            raise ValueError(f"image_size={image_size} and batch_size={batch_size} must be at least 1.")
        if not 1 <= resize < math.inf:
            raise ValueError(
                f"resize={resize} must be finite and at least 1: the centre crop would reach beyond the image."
            )
        self.source = source
        self.image_size = image_size
        self.batch_size = batch_size
        self.resize = resize
        self.augment = augment
        self.sampling = sampling
        self.mean = checked_normalisation(mean, getattr(source, "mean", IMAGENET_MEAN), "mean")
        self.std = checked_normalisation(std, getattr(source, "std", IMAGENET_STD), "std")
        self.loading = loading
        self.seed = seed
        self._splits: dict[str, LabelledImages | None] = {}
        self._checked: set[str] = set()
        self._keyed: dict[str, KeyedImages] = {}
        self._class_order: list[str] | None = None
        self._places: list[int] = []
        self._epochs_by_hand = 0

    @property
    def classes(self) -> list[str]:
        """Class names, in Unicode's composed form (NFC); the place is the label."""
        return self._class_order or [composed(str(name)) for name in self.source.classes]

    def take_order(self, classes: Sequence[str]) -> bool:
        """Label the images by the places of their classes in another list; False where the list has other names."""
        own = self.classes
        if sorted(own) != sorted(classes):
            return False
        if own != list(classes):
            self._class_order = list(classes)
            self._places = [self._class_order.index(composed(str(name))) for name in self.source.classes]
            self._splits = {}
        return True

    def images(self, split: str) -> LabelledImages | None:
        """A split's images before any transform, or None where the source has none.

        Raises:
            ValueError: a label lies outside the class list.
        """
        if split not in SPLITS:
            raise ValueError(f"Unknown split {split!r}; choose from {', '.join(SPLITS)}.")
        if split not in self._splits:
            images = self.source.dataset(split)
            if images is not None and not len(images):
                images = None
            if images is not None and self._class_order is not None:
                images = RelabelledImages(images, self._places)
            labels = None if images is None else images.labels
            if labels is not None and split == "train" and len(self.classes) < 2:
                shown = ", ".join(map(repr, self.classes))
                raise ValueError(f"data: only one class, {shown}; a classifier needs two or more classes.")
            if labels is not None:
                worst = max(labels, key=lambda label: abs(label - (len(self.classes) - 1) / 2))
                if not 0 <= worst < len(self.classes):
                    raise ValueError(
                        f"The {split} images have the label {worst}, but there are {len(self.classes)} classes "
                        f"(labels 0 to {len(self.classes) - 1})."
                    )
            self._splits[split] = images
        return self._splits[split]

    @property
    def notes(self) -> list[str]:
        """Sentences of the source about images that it leaves out, and about labels that may not mean what they say."""
        left_out = getattr(self.source, "left_out", None)
        return [*getattr(self.source, "notes", ()), *([] if left_out is None else left_out.lines())]

    def facts(self) -> dict[str, Any]:
        """Images of each split, and how many files the source leaves out, by reason."""
        found = {split: self.images(split) for split in SPLITS}
        left_out = getattr(self.source, "left_out", None)
        return {
            "images": {split: len(images) for split, images in found.items() if images is not None},
            "left_out": {} if left_out is None else dict(left_out.counts),
            "notes": self.notes,
        }

    @property
    def class_counts(self) -> list[int] | None:
        """Training images of each class, or None where labels are soft."""
        images = self.images("train")
        if images is None or images.labels is None:
            return None
        return torch.bincount(torch.as_tensor(images.labels), minlength=len(self.classes)).tolist()

    def class_weights(self) -> torch.Tensor:
        """Weights `(classes,)` for the loss: inverse frequency in the training images, with mean 1.

        Raises:
            ValueError: labels are soft, or a class has no training image.
        """
        counts = self.class_counts
        if counts is None:
            raise ValueError("Class weights need one class per training image, and these labels are soft.")
        if 0 in counts:
            raise ValueError(f"Class {self.classes[counts.index(0)]!r} has no training image, so it has no weight.")
        inverse = 1.0 / torch.tensor(counts, dtype=torch.float64)
        return (inverse / inverse.mean()).float()

    def describe(self) -> dict[str, Any]:
        """What an image classifier must carry to be used: plain values, enough for `transforms.eval_transform`."""
        return {
            "classes": self.classes,
            "mean": list(self.mean),
            "std": list(self.std),
            "image_size": self.image_size,
            "resize": self.resize,
            "scaled_decoding": bool(getattr(self.source, "scaled_decoding", False)),
        }

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
            **({} if chunks is None else chunks.order_key),
        }

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of one epoch, after the trainer's `limit_train_batches`."""
        images = self._required("train")
        batches = max(1, len(images) // self.batch_size)
        if self.trainer is None:
            return batches
        limit = self.trainer.limit_train_batches
        return int(batches * limit) if isinstance(limit, float) else min(batches, limit)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch: an epoch's last batch ends a step, however few batches it accumulated."""
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        return -(-self.batches_per_epoch // accumulate)

    def check_images(self, splits: Sequence[str]) -> None:
        """See that the images of these splits can be read, at the cost of `frostline.data.decoding.check_image`.

        Raises:
            ValueError: names all that cannot.
        """
        problems: list[str] = []
        for split in splits:
            images: object = None if split in self._checked else self.images(split)
            # An attribute of that name in a class of the user's own may be anything.
            if isinstance(images, CheckableImages) and callable(images.broken):
                problems += [str(error) for error in images.broken().values()]
        if problems:
            raise ValueError(
                listed(problems, BROKEN, most=MOST_BROKEN)
                + "\nFix or remove them, or type data.on_bad_image=skip to leave such images out."
            )
        self._checked |= set(splits)

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
        self._check_trainer()
        if self.sampling == "balanced" and images.labels is None:
            raise ValueError("data.sampling=balanced needs one class per image; these labels are soft. Use shuffled.")
        batches = EpochBatches(
            order=self._order,
            length=len(images),
            batch_size=self.batch_size,
            position=self._position,
            rank=rank,
            world_size=world_size,
        )
        options = {"batch_sampler": batches, "expected": self._at, **self._fetching(self.workers(len(images)))}
        if "train" in self._keyed:
            return ResumableLoader(PlacedBatches(self._keyed["train"]), collate_fn=as_it_is, **options)
        decoded, transform = self._as_seen("train")
        return ResumableLoader(
            TrainingImages(decoded, transform=transform, seed=self.seed),
            collate_fn=TrainingCollate(augment=self.augment, classes=len(self.classes), seed=self.seed),
            **options,
        )

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: str) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Each sample exactly once over all ranks; an empty list where the source has no such split."""
        images = self.images(split)
        if images is None:
            return []
        rank, world_size = self._place()
        if len(images) < world_size:
            raise ValueError(f"There are {len(images)} {split} images for {world_size} ranks; each needs at least one.")
        keyed: KeyedImages | EvaluationImages | None = self._keyed.get(split)
        collate: Callable[[Any], Any] = as_it_is
        if keyed is None:
            decoded, transform = self._as_seen(split)
            keyed, collate = EvaluationImages(decoded, transform=transform), stack
        return WatchedLoader(
            keyed,
            sampler=EverySampleOnce(images, rank=rank, world_size=world_size),
            batch_size=per_rank(self.batch_size, world_size=world_size),
            collate_fn=collate,
            **self._fetching(self.workers(len(images))),
        )

    def key_batches(self, split: str, *, views: int = 1) -> KeyedImages:
        """Let the loaders of a split that are made from now on give `KeyedBatch`es, and return their dataset.

        Args:
            views: fixed augmented views of each training image, one of which is drawn at each draw; 1 where nothing
                is augmented.
        """
        decoded, transform = self._as_seen(split)
        kept = views if split == "train" else 1
        self._keyed[split] = KeyedImages(decoded, transform=transform, slot=StoreSlot(), views=kept, seed=self.seed)
        return self._keyed[split]

    def batches_as_images(self) -> None:
        """Undo `key_batches`."""
        self._keyed = {}

    def _as_seen(self, split: str) -> tuple[LabelledImages, Transform]:
        """A split's images as they are decoded, and what makes of them what the network sees."""
        images = self._required(split)
        if split == "train":
            transform = training_transform(self.augment, image_size=self.image_size, resize=self.resize)
            return self.decoded(images, self.augment), transform
        return self.decoded(images), evaluation_transform(image_size=self.image_size, resize=self.resize)

    def decoded(self, images: LabelledImages, augment: Augmentation | None = None) -> LabelledImages:
        """A split's images as a transform reads them: at reduced size and from the packed file where there is one.

        Args:
            augment: None for evaluation.
        """
        if not isinstance(images, ScalableImages):
            return images
        return images.for_shorter_side(shorter_side(image_size=self.image_size, resize=self.resize, augment=augment))

    def _required(self, split: str) -> LabelledImages:
        images = self.images(split)
        if images is None:
            raise ValueError(f"{type(self.source).__name__} has no {split} images.")
        return images

    def _order(self, epoch: int) -> torch.Tensor:
        images = self._required("train")
        return epoch_order(
            epoch,
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
        self._epochs_by_hand += 1
        return self._epochs_by_hand - 1, 0

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

    def _check_trainer(self) -> None:
        """Refuse the trainer options under which the position in the run is not what `global_step` says."""
        trainer = self.trainer
        if trainer is None:
            return
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "Build the Trainer with use_distributed_sampler=False: the datamodule divides the samples among ranks "
                "itself, and Lightning's sampler would divide them again and pad the evaluation."
            )
        if getattr(trainer, "overfit_batches", 0):
            raise ValueError("overfit_batches is not supported; use limit_train_batches and a smaller source instead.")
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "GradientAccumulationScheduler is not supported: steps per epoch must not change in a run."
            )
        if not trainer.lightning_module.automatic_optimization:
            raise ValueError("Manual optimization is not supported: the position in the run is counted in its steps.")

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

    def _fetching(self, workers: int) -> dict[str, Any]:
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "timeout": self.loading.timeout if workers else 0,
            "patience": 0 if workers else self.loading.timeout,
            # Only for a GPU that is used: pinning takes a CUDA context, hundreds of megabytes, where there is one.
            "pin_memory": self._on_gpu,
            # A loader draws a seed for its workers at each new iterator; by default from the global generator, which
            # would then depend on how often a run was interrupted.
            "generator": torch.Generator().manual_seed(self.seed),
        }


def auto_workers(*, cores: int, images: int, on_gpu: bool) -> int:
    """Loader processes for a rank with so many cores.

    None for fewer than 1,000 images or on two cores: forks and pipes then cost more than they save. Beside a GPU all
    cores but one, at most 8. Where the cores compute as well, one for each six of them: at 224 px in bf16 a ResNet-18's
    forward pass takes about five times the processor time of decoding its image, a training step fifteen times.
    """
    if cores <= 2 or images < 1000:
        return 0
    return min(8, cores - 1) if on_gpu else min(8, max(1, cores // 6))
