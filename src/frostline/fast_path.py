"""The callback that computes the features of the frozen layers once, and stores them on disk.

Everything before the frost line of the current phase is a constant function of the image, and runs without an autograd
graph. When a phase begins, the images that it will see go through the frozen layers once (`prefix.extraction`); its
batches, later phases with the same frost line and later runs read the features, without decoding the image. Where an
image would not be seen again, the frozen layers run in the step. The callback follows the phases of a
`FreezingSchedule`, and comes after it in the list of callbacks.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor, nn

from frostline.data.datamodule import ImageDataModule
from frostline.data.order import per_rank
from frostline.data.time_limit import limited
from frostline.feature_limits import decide_engine, is_augmented, why_not_split, why_not_stored
from frostline.freezing.callback import FreezingSchedule
from frostline.freezing.lightning_internals import averages_weights
from frostline.freezing.resolved import ResolvedPhase
from frostline.options import FeatureCache
from frostline.prefix.dataset import FeatureDataset, StoredBatch
from frostline.prefix.engine import Engine, RecordedLine
from frostline.prefix.extraction import WriteError, extract
from frostline.prefix.key import feature_key, prefix_digest
from frostline.prefix.split_model import SplitModel, split_at_frost_line
from frostline.prefix.store import FORMAT, SHARED_LOCK_LIMIT, FeatureStore, Rows, open_store, sole_writer
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
        engine: what computes the frozen layers.

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
        engine: Engine,
    ) -> None:
        self.schedule = schedule
        self.inputs = inputs
        self.cache = cache
        self.compiled = compiled
        self.engine = engine
        self.model: SplitModel | None = None
        self._batch: int | None = None
        self._phase: int | None = None
        self._logged: set[str] = set()
        self._datasets: dict[str, FeatureDataset] = {}
        self._counts: dict[str, dict[str, Any]] = {}
        self._extracted: set[str] = set()
        self._recorded: tuple[RecordedLine | None, SplitModel | None] = (None, None)

    # What the classifier asks.

    def logits(self, split: str, batch: StoredBatch, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (n, classes) of a batch.

        Args:
            forward: images -> logits.
        """
        dataset = self._datasets[split]
        if batch.generation != dataset.handle.get()[0]:  # a loader read it before the frost line moved
            with limited(0):
                batch = dataset.batch(batch.rows, images=None if batch.are_features else batch.values)
        if split in self._counts:
            self._counts[split]["read" if batch.are_features else "computed"] += len(batch.rows)
        values = batch.values.to(batch.targets.device)
        return self.model.suffix(values) if batch.are_features and self.model is not None else forward(values)

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
                self._datasets[split] = FeatureDataset(images, transform=transform, views=views, seed=data.seed)
            elif trainer.is_global_zero:
                log.info("Features of the %s images are not kept: %s.", split, reason)
        data.replace_datasets(self._datasets)

    def _phases(self, stage: str) -> Iterator[ResolvedPhase]:
        try:
            resolved = self.schedule.resolved
        except RuntimeError:  # a network that is made in configure_model, or a test without a fit
            return
        yield from resolved.phases if stage == "fit" else [self.schedule.phase]

    def _split_for(self, phase: ResolvedPhase | RecordedLine) -> SplitModel | None:
        """The network split at a phase's frost line; None where nothing is frozen before it.

        Raises:
            SplitError: it cannot be split there.
        """
        network = self.schedule.network
        if (reason := why_not_split(network)) is not None:
            raise SplitError(reason)
        return split_at_frost_line(
            network,
            trainable=phase.trainable,
            held=phase.eval_modules,
            batch=self._batch,
            compiled=self.compiled,
            engine=self.engine,
        )

    def _split_or_log(self, trainer: "pl.Trainer", phase: ResolvedPhase | RecordedLine) -> SplitModel | None:
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

    def current(self, network: nn.Module) -> SplitModel | None:
        """The network as it is split now; outside of a fit, and before its first batch, as the engine's record says."""
        line = self.engine.line
        if self._phase is not None or self.model is not None or line is None or not self.engine.converts:
            return self.model
        if self._recorded[0] is not line:
            split = split_at_frost_line(network, trainable=line.trainable, held=line.eval_modules, engine=self.engine)
            self._recorded = line, split
        return self._recorded[1]

    # Following the phases.

    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        models = (self._split_or_log(trainer, phase) for phase in self._phases("fit"))
        decide_engine(self.engine, models, trainer=trainer, compiled=self.compiled)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self.schedule.goes_on(trainer):  # before the first batches are decoded
            self._follow(trainer)

    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        self._follow(trainer)

    def _follow(self, trainer: "pl.Trainer") -> None:
        if self._phase == self.schedule.phase.index:
            return
        self._phase = self.schedule.phase.index
        self._move(trainer, self.schedule.phase)
        if self.model is not None and "train" in self._datasets:
            data = trainer.datamodule  # type: ignore[attr-defined]
            end, dataset = self.schedule.latest_end(trainer), self._datasets["train"]
            if (end - trainer.global_step) * trainer.accumulate_grad_batches * data.batch_size >= data.drawn_per_epoch:
                self._extract(trainer, "train", dataset.rows_of(data.drawn(end)))

    def on_validation_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and "val" in self._datasets:
            self._extract_evaluated(trainer, "val")

    def on_test_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._datasets:
            self._move(trainer, (self.engine.converts and self.engine.line) or self.schedule.phase)
            self._extract_evaluated(trainer, "test")

    def _extract_evaluated(self, trainer: "pl.Trainer", split: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        limit = trainer.limit_val_batches if split == "val" else trainer.limit_test_batches
        self._extract(trainer, split, np.arange(data.evaluated(split, limit)))

    def _move(self, trainer: "pl.Trainer", phase: ResolvedPhase | RecordedLine) -> None:
        """Move to the frost line of the current phase, with the current weights."""
        self._extracted = set()
        for dataset in self._datasets.values():
            dataset.handle.put(None)
        self.engine.begin(trainable=phase.trainable, eval_modules=phase.eval_modules)
        self.model = self._split_or_log(trainer, phase)
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
        self, trainer: "pl.Trainer", split: str, dataset: FeatureDataset, *, digest: str, data: ImageDataModule
    ) -> None:
        assert self.cache is not None
        assert self.model is not None
        example = self.inputs(dataset.decoded(np.array([0, 0])).to(trainer.strategy.root_device))
        with trainer.precision_plugin.forward_context():
            features = self.model.by_torch(example)
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
        about = {
            "prefix": digest,
            "before": next(iter(self.model.after.modules), "the end"),
            "images": dataset.images.identity,
            **data.spec.preparation,
            "augment": repr(data.augment) if dataset.views > 1 else "none",
            "views": dataset.views,
            **self.model.about(),
            "memory_format": "channels_last" if example.stride()[1] == 1 else "contiguous",
            "strides": list(rows.strides),
            "precision": str(trainer.precision),
            "device": trainer.strategy.root_device.type,
            "versions": [torch.__version__, torchvision.__version__, PIL.__version__],
        }
        key = feature_key({**about, "format": FORMAT, "dtype": rows.dtype, "shape": list(rows.shape)})
        if self.engine.converts and not (self.cache.folder / f"{key}.features").exists():
            with trainer.precision_plugin.forward_context():
                self.model.prefix(example)  # the key names the engine, which may turn out to be unable
            if {**about, **self.model.about()} != about:
                self._open(trainer, split, dataset, digest=digest, data=data)
                return
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

    # Extraction.

    def _extract(self, trainer: "pl.Trainer", split: str, rows: np.ndarray) -> None:
        """Have the features of these rows stored, once in a phase: all ranks together, each of them its share."""
        if split in self._extracted:
            return
        self._extracted.add(split)
        store = self._datasets[split].handle.get()[1]
        # The second time there is something to do on machines that do not share the first one's folder.
        places = ((trainer.global_rank, trainer.world_size), (trainer.local_rank, trainer.num_devices))
        with ExitStack() as writing:
            if store is not None and trainer.is_global_zero:
                writing.enter_context(sole_writer(store, limit=None if trainer.world_size == 1 else SHARED_LOCK_LIMIT))
            for number, (rank, ranks) in enumerate(places):
                trainer.strategy.barrier(f"extraction {number}")
                if store is not None:
                    store = self._extract_missing(trainer, split, store, rows[rank::ranks], check=number == 0)
            trainer.strategy.barrier("extraction end")

    def _extract_missing(
        self, trainer: "pl.Trainer", split: str, store: FeatureStore, rows: np.ndarray, *, check: bool
    ) -> FeatureStore | None:
        """Compute what is missing of these rows; None: the store cannot be written to, and is not used from now on."""
        data, device = trainer.datamodule, trainer.strategy.root_device  # type: ignore[attr-defined]

        def features(images: Tensor) -> Tensor:
            assert self.model is not None
            with trainer.precision_plugin.forward_context():
                return self.model.prefix(self.inputs(images.to(device, non_blocking=True)))

        missing = store.missing(rows, check=check)
        try:
            self._counts[split]["computed"] += extract(
                store,
                missing,
                dataset=self._datasets[split],
                compute=features,
                batch_size=per_rank(data.batch_size, world_size=trainer.world_size),
                loading=data.fetching(len(missing)),
                title=f"features of the {split} images",
                line=getattr(trainer.progress_bar_callback, "line", None),
            )
        except WriteError as error:
            log.warning("Features are no longer kept: %s.", error)
            for dataset in self._datasets.values():
                dataset.handle.put(None)
            return None
        return store

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        for dataset in self._datasets.values():
            dataset.handle.put(None)
        self.model = self._phase = None
