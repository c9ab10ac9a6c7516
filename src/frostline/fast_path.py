"""The callback that never pays twice for what is frozen.

Everything before the frost line of the current phase is a constant function of the image. It runs without an autograd
graph, and what it returns is kept on disk: later epochs, later phases with the same line and later runs read it back,
and the image is not even decoded. It follows the phases of a `FreezingSchedule` and must stand after it.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor, nn

from frostline.data.datamodule import ImageDataModule
from frostline.data.waiting import bounded
from frostline.freezing.callback import FreezingSchedule
from frostline.freezing.checks import is_sharded
from frostline.freezing.lightning_internals import averages_weights
from frostline.freezing.resolved import ResolvedPhase
from frostline.options import FeatureCache
from frostline.prefix.dataset import CachedFeatureDataset
from frostline.prefix.division import FrostLine, chain_of, divide
from frostline.prefix.key import feature_key, prefix_digest
from frostline.prefix.mixed_batch import MixedBatch
from frostline.prefix.store import FORMAT, FeatureStore, Rows, open_store
from frostline.storage.lru import gigabytes

log = logging.getLogger("frostline.fast_path")


class FastPath(pl.Callback):
    """Cuts the classifier's network at the frost line of each phase, and keeps the features there.

    Args:
        schedule: whose phases it follows.
        inputs: images (batch, 3, height, width) as the loader gives them -> what the network takes.
        cache: None keeps nothing.
        compiled: run both parts by torch.compile.

    Attributes:
        line: where the network is cut now; None: nowhere.
    """

    def __init__(
        self,
        *,
        schedule: FreezingSchedule,
        inputs: Callable[[Tensor], Tensor],
        cache: FeatureCache | None = None,
        compiled: bool = False,
    ) -> None:
        self.schedule = schedule
        self.inputs = inputs
        self.cache = cache
        self.compiled = compiled
        self.line: FrostLine | None = None
        self._phase: int | None = None
        self._keyed: dict[str, CachedFeatureDataset] = {}
        self._counts: dict[str, dict[str, Any]] = {}
        self._unwritten: tuple[FeatureStore, np.ndarray, Tensor] | None = None

    # What the classifier asks.

    def logits(self, split: str, batch: MixedBatch, whole: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (n, classes) of a batch, from its features where there are some.

        Args:
            whole: images -> logits by the whole network, for when nothing is frozen.
        """
        batch = self._up_to_date(self._keyed[split], batch)
        if self.line is None:
            return whole(batch.images)
        if split in self._counts:
            self._counts[split]["computed"] += len(batch.missing)
            self._counts[split]["read"] += len(batch.rows) - len(batch.missing)
        if not len(batch.missing):
            return self.line.suffix(batch.features)
        features = self.line.prefix(self.inputs(batch.images))
        store = self._keyed[split].handle.get()[1]
        if store is not None:
            self._write(store, batch.rows[batch.missing], features)
        return self.line.suffix(_merged(batch, features))

    def _up_to_date(self, dataset: CachedFeatureDataset, batch: MixedBatch) -> MixedBatch:
        """The batch as it would be read now: it may have been read before the frost line moved."""
        generation, store = dataset.handle.get()
        if batch.generation == generation:
            return batch
        found = np.zeros(len(batch.rows), dtype=bool)
        features, device = batch.features[:0], batch.targets.device
        if store is not None:
            features, found = store.read(batch.rows)
        missing = np.flatnonzero(~found)
        if len(batch.missing) == len(batch.rows):
            images = batch.images[torch.from_numpy(missing).to(device)]
        else:
            with bounded(0):
                images = dataset.decoded(batch.rows[missing]).to(device)
        return MixedBatch(images, missing, features.to(device), batch.rows, generation, batch.targets)

    def facts(self) -> dict[str, Any]:
        """What was kept, in plain values: for each split that had a store its folder, and how many images were computed
        and how many were read."""
        return {split: dict(counts) for split, counts in self._counts.items()}

    # Setting up, before the loaders are made.

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if stage == "fit":
            self.line, self._phase, self._counts = None, None, {}
            self._say_why_not_cut(trainer)
        data = getattr(trainer, "datamodule", None)
        if stage not in ("fit", "test") or self.cache is None or not isinstance(data, ImageDataModule):
            return
        self._keyed = {}
        data.replace_datasets({})
        lines = [self._divide(phase) for phase in self._phases(stage)]
        if not any(lines):
            return
        for split in ("train", "val") if stage == "fit" else ("test",):
            if data.images(split) is None:
                continue
            reason = why_not_kept(data, split, views=self.cache.views)
            if reason is None:
                views = max(1, self.cache.views) if split == "train" and is_augmented(data) else 1
                images, transform = data.images_and_transform(split)
                self._keyed[split] = CachedFeatureDataset(images, transform=transform, views=views, seed=data.seed)
            elif trainer.is_global_zero:
                log.info("Features of the %s images are not kept: %s.", split, reason)
        data.replace_datasets(self._keyed)

    def _phases(self, stage: str) -> Iterator[ResolvedPhase]:
        try:
            resolved = self.schedule.resolved
        except RuntimeError:  # a network that is made in configure_model, or a test without a fit
            return
        yield from resolved.phases if stage == "fit" else [self.schedule.phase]

    def _divide(self, phase: ResolvedPhase) -> FrostLine | None:
        network = self.schedule.network
        if why_not_cut(network) is not None:
            return None
        return divide(network, trainable=phase.trainable, held=phase.eval_modules, compiled=self.compiled)

    def _say_why_not_cut(self, trainer: "pl.Trainer") -> None:
        freezes = any(set(phase.trainable) != self._parameters() for phase in self._phases("fit"))
        if freezes and trainer.is_global_zero and (reason := why_not_cut(self.schedule.network)):
            log.info("The frozen part is computed together with the rest, in each epoch: %s.", reason)

    def _parameters(self) -> set[str]:
        return {name for name, _ in self.schedule.network.named_parameters()}

    # Following the phases.

    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        if self._phase != self.schedule.phase.index:
            self._phase = self.schedule.phase.index
            self._cut(trainer)

    def on_test_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._keyed:
            self._cut(trainer)

    def _cut(self, trainer: "pl.Trainer") -> None:
        """Move to the frost line of the current phase, with the weights as they are now."""
        self.flush()
        for dataset in self._keyed.values():
            dataset.handle.put(None)
        self.line = self._divide(self.schedule.phase)
        if self.line is None or self.cache is None or not self._keyed:
            return
        if averages_weights(trainer) and self._moved_before(self.line):
            # Validation then runs with the average of weights that moved in an earlier phase.
            return
        digest = prefix_digest(self.line)
        data = trainer.datamodule  # type: ignore[attr-defined]
        for split, dataset in self._keyed.items():
            self._open(trainer, split, dataset, digest=digest, data=data)

    def _moved_before(self, line: FrostLine) -> bool:
        resolved = self.schedule.resolved
        earlier = frozenset().union(*(phase.trainable for phase in resolved.phases[: self.schedule.phase.index]))
        return any(name.startswith(tuple(f"{part}." for part in line.before)) for name in earlier)

    def _open(
        self, trainer: "pl.Trainer", split: str, dataset: CachedFeatureDataset, *, digest: str, data: ImageDataModule
    ) -> None:
        assert self.cache is not None
        assert self.line is not None
        example = self.inputs(dataset.decoded(np.array([0, 0])).to(trainer.strategy.root_device))
        with trainer.precision_plugin.forward_context():
            features = self.line.prefix(example)
        if torch.empty_like(features).stride() != features.stride():
            log.info("Features of the %s images are not kept: there are gaps between their values in memory.", split)
            return
        rows = Rows(
            count=len(dataset) * dataset.views,
            shape=tuple(features.shape[1:]),
            dtype=str(features.dtype).removeprefix("torch."),
            strides=features.stride()[1:],
        )
        about = {
            "prefix": digest,
            "before": self.line.after[0] if self.line.after else "the end",
            "images": dataset.images.identity,
            **{key: data.describe()[key] for key in ("image_size", "resize", "mean", "std")},
            "augment": repr(data.augment) if dataset.views > 1 else "none",
            "views": dataset.views,
            "memory_format": "channels_last" if example.stride()[1] == 1 else "contiguous",
            "strides": list(rows.strides),
            "precision": str(trainer.precision),
            "device": trainer.strategy.root_device.type,
            "versions": [torch.__version__, torchvision.__version__, PIL.__version__],
        }
        key = feature_key({**about, "format": FORMAT, "dtype": rows.dtype, "shape": list(rows.shape)})
        try:
            store = open_store(self.cache.folder, key=key, rows=rows, limit_bytes=self.cache.limit_bytes, about=about)
        except (OSError, ValueError) as error:
            log.warning("Features of the %s images are not kept in %s: %s.", split, self.cache.folder, error)
            return
        dataset.handle.put(store)
        self._counts.setdefault(split, {"computed": 0, "read": 0}).update(store=str(store.path), rows=rows.count)
        if trainer.is_global_zero:
            log.info(
                "Features of the %s images before `%s` are kept: %s rows of %s in %s, %s of them already there.",
                split,
                about["before"],
                f"{rows.count:,}",
                gigabytes(rows.row_bytes),
                store.path,
                f"{store.written():,}",
            )

    # Writing.

    def _write(self, store: FeatureStore, rows: np.ndarray, features: Tensor) -> None:
        self.flush()
        self._unwritten = store, rows, features
        if not features.is_cuda:
            self.flush()
        # On a GPU they are written one batch later: to fetch them now would make the step wait for them.

    def flush(self) -> None:
        """Write what is still to be written; where the disk is full, keep nothing from now on."""
        if self._unwritten is None:
            return
        (store, rows, features), self._unwritten = self._unwritten, None
        try:
            store.write(rows, features)
        except OSError as error:
            log.warning("Features are no longer kept: %s cannot be written to (%s).", store.path, error)
            for dataset in self._keyed.values():
                dataset.handle.put(None)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self.flush()

    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        self.flush()

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        self.flush()
        for dataset in self._keyed.values():
            dataset.handle.put(None)
        self.line = self._phase = None


def _merged(batch: MixedBatch, computed: Tensor) -> Tensor:
    """Features (n, *shape) of a batch, some computed and some read, in the memory layout of both."""
    if len(batch.missing) == len(batch.rows):
        return computed
    found = np.ones(len(batch.rows), dtype=bool)
    found[batch.missing] = False
    shape, strides = (len(batch.rows), *computed.shape[1:]), (computed[0].numel(), *computed.stride()[1:])
    features = computed.new_empty_strided(shape, strides)
    features[torch.from_numpy(batch.missing).to(computed.device)] = computed
    features[torch.from_numpy(np.flatnonzero(found)).to(computed.device)] = batch.features
    return features


def why_not_cut(network: nn.Module) -> str | None:
    """Why a network cannot be run in two parts; None where it can."""
    if is_sharded(network):
        return "FSDP2 gathers its weights in hooks of the whole network"
    # One hook before the forward is the policy's, which holds modes.
    if network._forward_hooks or len(network._forward_pre_hooks) > 1:
        return "hooks on the whole network would not see its parts"
    if chain_of(network) is None:
        return (
            f"only of torchvision's ResNets and of nn.Sequential is it known what runs after what, and this is "
            f"{type(network).__name__}"
        )
    return None


def is_augmented(data: ImageDataModule) -> bool:
    """Whether training sees something else of an image than evaluation does."""
    return data.augment.name != "none"


def why_not_kept(data: ImageDataModule, split: str, *, views: int) -> str | None:
    """Why features of a split's images cannot be kept; None where they can."""
    images = data.images(split)
    assert images is not None
    if images.labels is None:
        return "their labels are soft"
    if getattr(images, "identity", None) is None:
        return f"{type(images).__name__} cannot tell whether its images have changed (`identity`)"
    if split != "train":
        return None
    if data.augment.mixup or data.augment.cutmix:
        return "mixup and CutMix make new images of them in each batch"
    if is_augmented(data) and not views:
        return (
            f"augment={data.augment.name} makes new ones in each epoch (to store them: augment=none, or views=4 for "
            "four fixed views of each)"
        )
    return None
