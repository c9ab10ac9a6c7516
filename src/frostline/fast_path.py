"""The callback that computes the features of the frozen layers once, and stores them on disk.

Everything before the frost line of the current phase is a constant function of the image, and runs without an autograd
graph. Later epochs, phases with the same frost line and runs read the features back, without decoding the image. The
callback follows the phases of a `FreezingSchedule`, and comes after it in the list of callbacks.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor

from frostline.data.datamodule import ImageDataModule
from frostline.data.order import per_rank
from frostline.data.time_limit import limited
from frostline.feature_limits import is_augmented, why_not_split, why_not_stored
from frostline.freezing.callback import FreezingSchedule
from frostline.freezing.lightning_internals import averages_weights
from frostline.freezing.resolved import ResolvedPhase
from frostline.options import FeatureCache
from frostline.prefix.dataset import CachedFeatureDataset
from frostline.prefix.key import feature_key, prefix_digest
from frostline.prefix.mixed_batch import MixedBatch
from frostline.prefix.split_model import SplitModel, split_at_frost_line
from frostline.prefix.store import FORMAT, FeatureStore, Rows, open_store
from frostline.prefix.traced import SplitError
from frostline.storage.lru import gigabytes

log = logging.getLogger("frostline.fast_path")


class FastPath(pl.Callback):
    """Splits the classifier's network at the frost line of each phase, and stores the features.

    Args:
        schedule: whose phases it follows.
        inputs: images (batch, 3, height, width) as the loader gives them -> what the network takes.
        cache: None stores nothing.
        compiled: run both parts by torch.compile.

    Attributes:
        model: the network as it is split now; None: it is not.
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
        self.model: SplitModel | None = None
        self._batch: int | None = None
        self._phase: int | None = None
        self._logged: set[str] = set()
        self._datasets: dict[str, CachedFeatureDataset] = {}
        self._counts: dict[str, dict[str, Any]] = {}
        self._unwritten: tuple[FeatureStore, np.ndarray, Tensor] | None = None

    # What the classifier asks.

    def logits(self, split: str, batch: MixedBatch, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (n, classes) of a batch, from its stored features if there are any.

        Args:
            forward: images -> logits by the complete network, for a phase that freezes nothing.
        """
        batch = self._up_to_date(self._datasets[split], batch)
        if self.model is None:
            return forward(batch.images)
        if split in self._counts:
            self._counts[split]["computed"] += len(batch.missing)
            self._counts[split]["read"] += len(batch.rows) - len(batch.missing)
        if not len(batch.missing):
            return self.model.suffix(batch.features)
        features = self.model.prefix(self.inputs(batch.images))
        store = self._datasets[split].handle.get()[1]
        if store is not None:
            self._write(store, batch.rows[batch.missing], features)
        return self.model.suffix(batch.merged(features))

    def _up_to_date(self, dataset: CachedFeatureDataset, batch: MixedBatch) -> MixedBatch:
        """The batch as it would be read now: a loader may have read it before the frost line moved."""
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
            with limited(0):
                images = dataset.decoded(batch.rows[missing]).to(device)
        return MixedBatch(images, missing, features.to(device), batch.rows, generation, batch.targets)

    def facts(self) -> dict[str, Any]:
        """For each split with a store: its file, its rows, and how many features were computed and read."""
        return {split: dict(counts) for split, counts in self._counts.items()}

    # Setting up, before the loaders are made.

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if stage == "fit":
            self.model, self._phase, self._counts, self._logged = None, None, {}, set()
        if stage not in ("fit", "test"):
            return
        data = getattr(trainer, "datamodule", None)
        # The last bits of features depend on the number of images in float32 on CPUs only; see `_depends_on_batch`.
        exact = trainer.precision in ("32-true", "64-true") and trainer.strategy.root_device.type == "cpu"
        self._batch = None
        if exact and isinstance(data, ImageDataModule):
            self._batch = per_rank(data.batch_size, world_size=trainer.world_size)
        models = [self._split_or_log(trainer, phase) for phase in self._phases(stage)]
        if self.cache is None or not isinstance(data, ImageDataModule):
            return
        self._datasets = {}
        data.replace_datasets({})
        if not any(models):
            return
        for split in ("train", "val") if stage == "fit" else ("test",):
            if data.images(split) is None:
                continue
            reason = why_not_stored(data, split, views=self.cache.views)
            if reason is None:
                views = max(1, self.cache.views) if split == "train" and is_augmented(data) else 1
                images, transform = data.images_and_transform(split)
                self._datasets[split] = CachedFeatureDataset(images, transform=transform, views=views, seed=data.seed)
            elif trainer.is_global_zero:
                log.info("Features of the %s images are not kept: %s.", split, reason)
        data.replace_datasets(self._datasets)

    def _phases(self, stage: str) -> Iterator[ResolvedPhase]:
        try:
            resolved = self.schedule.resolved
        except RuntimeError:  # a network that is made in configure_model, or a test without a fit
            return
        yield from resolved.phases if stage == "fit" else [self.schedule.phase]

    def _split_for(self, phase: ResolvedPhase) -> SplitModel | None:
        """The network split at a phase's frost line; None where nothing is frozen before it.

        Raises:
            SplitError: it cannot be split there.
        """
        network = self.schedule.network
        if (reason := why_not_split(network)) is not None:
            raise SplitError(reason)
        return split_at_frost_line(
            network, trainable=phase.trainable, held=phase.eval_modules, batch=self._batch, compiled=self.compiled
        )

    def _split_or_log(self, trainer: "pl.Trainer", phase: ResolvedPhase) -> SplitModel | None:
        """The same; where it cannot be split, one line says why, once a fit."""
        try:
            return self._split_for(phase)
        except SplitError as reason:
            if trainer.is_global_zero and self._parameters() != phase.trainable and str(reason) not in self._logged:
                self._logged.add(str(reason))
                log.info("The frozen part is computed together with the rest, in each epoch: %s.", reason)
            return None

    def _parameters(self) -> set[str]:
        return {name for name, _ in self.schedule.network.named_parameters()}

    # Following the phases.

    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        if self._phase != self.schedule.phase.index:
            self._phase = self.schedule.phase.index
            self._move(trainer)

    def on_test_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._datasets:
            self._move(trainer)

    def _move(self, trainer: "pl.Trainer") -> None:
        """Move to the frost line of the current phase, with the current weights."""
        self.flush()
        for dataset in self._datasets.values():
            dataset.handle.put(None)
        self.model = self._split_or_log(trainer, self.schedule.phase)
        if self.model is None or self.cache is None or not self._datasets:
            return
        if averages_weights(trainer) and self._trained_before(self.model):
            # Validation then runs with the average of weights that trained in an earlier phase.
            return
        digest = prefix_digest(self.model)
        data = trainer.datamodule  # type: ignore[attr-defined]
        for split, dataset in self._datasets.items():
            self._open(trainer, split, dataset, digest=digest, data=data)

    def _trained_before(self, model: SplitModel) -> bool:
        resolved = self.schedule.resolved
        earlier = frozenset().union(*(phase.trainable for phase in resolved.phases[: self.schedule.phase.index]))
        return any(name.startswith(tuple(f"{part}." for part in model.before.modules)) for name in earlier) or any(
            name in earlier for name in model.before.tensors
        )

    def _open(
        self, trainer: "pl.Trainer", split: str, dataset: CachedFeatureDataset, *, digest: str, data: ImageDataModule
    ) -> None:
        assert self.cache is not None
        assert self.model is not None
        example = self.inputs(dataset.decoded(np.array([0, 0])).to(trainer.strategy.root_device))
        with trainer.precision_plugin.forward_context():
            features = self.model.prefix(example)
        if len(features) != 2 or not torch.equal(features[0], features[1]):
            log.info("Features of the %s images are not kept: two of the same image differ.", split)
            return
        if torch.empty_like(features).stride() != features.stride():
            log.info("Features of the %s images are not kept: there are gaps between their values in memory.", split)
            return
        rows = Rows(
            count=len(dataset) * dataset.views,
            shape=tuple(features.shape[1:]),
            dtype=str(features.dtype).removeprefix("torch."),
            strides=features.stride()[1:],
        )
        described = data.spec.as_dict()
        about = {
            "prefix": digest,
            "before": next(iter(self.model.after.modules), "the end"),
            "images": dataset.images.identity,
            **{key: described[key] for key in ("image_size", "resize", "mean", "std")},
            "augment": repr(data.augment) if dataset.views > 1 else "none",
            "views": dataset.views,
            "batch": self.model.batch,
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
        # From a GPU they are written one batch later: a copy now would make the step wait.

    def flush(self) -> None:
        """Write the features of the last batch; on an error, such as a full disk, store nothing from now on."""
        if self._unwritten is None:
            return
        (store, rows, features), self._unwritten = self._unwritten, None
        try:
            store.write(rows, features)
        except OSError as error:
            log.warning("Features are no longer kept: %s cannot be written to (%s).", store.path, error)
            for dataset in self._datasets.values():
                dataset.handle.put(None)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self.flush()

    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        self.flush()

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        self.flush()
        for dataset in self._datasets.values():
            dataset.handle.put(None)
        self.model = self._phase = None
