"""ImageClassifier: the LightningModule that trains a network under a freezing policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from frostline.checkpoint import CHECKPOINT_KEY, drop_frozen_group
from frostline.data.spec import DataSpec, Normalisation
from frostline.fast_path import FastPath
from frostline.freezing.apply import apply_phase
from frostline.freezing.callback import FreezingSchedule
from frostline.freezing.lightning_internals import run_length
from frostline.freezing.policy import FreezePolicy
from frostline.freezing.resolved import ResolvedPolicy
from frostline.loading import description, from_checkpoint, module_state, network_state
from frostline.losses import CrossEntropy, mean_over_images, total_weight
from frostline.metrics import Evaluation, at_temperature, hard_labels
from frostline.modes import eval_mode
from frostline.numeric_checks import check_batches, check_finite, check_loss, check_state, one_value_explained
from frostline.optimizer_step import StepMean, clip_in_mixed_precision
from frostline.options import CheckpointOptions, ComputeOptions, TrainingOptions
from frostline.prefix.dataset import Batch, StoredBatch
from frostline.prefix.engine import Engine
from frostline.test_time_augmentation import TestTimeAugmentation, mean_logits

if TYPE_CHECKING:
    from typing_extensions import Self


class ImageClassifier(lightning.LightningModule):
    """Trains a network that maps images (batch, 3, height, width) to logits (batch, classes).

    Args:
        network: its parameters keep their names in the checkpoint, so that a torchvision network's weights load into
            plain torchvision.
        data_spec: `ImageDataModule.spec`: the classes, and how an image becomes the network's input.
        policy: what of the network trains when; None trains all of it. One that is resolved for the network says
            besides what trains whatever the policy says: `policy.resolve(network, always_trainable=["fc.*"])`.
        training: optimizer, schedule, loss, metrics.
        compute: how the network is run: memory format, torch.compile, frozen layers without a graph, feature cache.
        checkpoint: what checkpoints record, and what becomes of one with another policy.
        test_time_augmentation: views of each image whose mean probabilities are evaluated and predicted.

    Raises:
        ValueError: test-time augmentation with a feature cache, which has the features of one view.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        data_spec: DataSpec,
        policy: FreezePolicy | ResolvedPolicy | None = None,
        training: TrainingOptions = TrainingOptions(),  # noqa: B008 - frozen
        compute: ComputeOptions = ComputeOptions(),  # noqa: B008
        checkpoint: CheckpointOptions = CheckpointOptions(),  # noqa: B008
        test_time_augmentation: TestTimeAugmentation = "none",
    ) -> None:
        super().__init__()
        if test_time_augmentation != "none" and compute.feature_cache is not None:
            raise ValueError("test_time_augmentation: needs ComputeOptions(feature_cache=None)")
        self.test_time_augmentation: TestTimeAugmentation = test_time_augmentation
        self.network = network
        self.data_spec = data_spec
        policy = policy or FreezePolicy.static("all")
        self.resolved = policy if isinstance(policy, ResolvedPolicy) else policy.resolve(network)
        self.training_options, self.compute_options, self.checkpoint_options = training, compute, checkpoint
        self.loss = training.loss or CrossEntropy()
        classes = len(data_spec.classes)
        self.train_accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.train_loss = MeanMetric()
        self._step_mean = StepMean()
        self.evaluations = nn.ModuleDict({split: Evaluation(classes, training.metrics) for split in ("val", "test")})
        self.confusion: Tensor | None = None
        self.calibration = checkpoint.calibration
        self.normalised = Normalisation(data_spec, channels_last=compute.channels_last)
        apply_phase(network, self.resolved.phases[0])
        if compute.channels_last:
            network.to(memory_format=torch.channels_last)
        if compute.compile:
            network.compile()
        self._schedule = FreezingSchedule(
            policy=self.resolved,
            attribute="network",
            on_mismatch=checkpoint.on_policy_change,
            inputs=self._network_inputs,
        )
        self._engine = Engine(compute.engine, recorded=checkpoint.engine)
        self._fast_path = FastPath(
            schedule=self._schedule,
            inputs=self.normalised,
            cache=compute.feature_cache,
            compiled=compute.compile,
            engine=self._engine,
        )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        *,
        strict: bool = True,
        weights_only: Literal[True] = True,
        trust_checkpoint: bool = False,
        **arguments: Any,
    ) -> "Self":
        """The classifier in a checkpoint, from the file alone, in the modes of its policy's first phase.

        Args:
            map_location: the device; None for the CPU.
            strict: the network must have all of the checkpoint's tensors, and no others.
            trust_checkpoint: import the classes of your own model or head that the file names, which runs their code.
            arguments: of the constructor; they take the place of the checkpoint's, which has no optimizer, schedule,
                metrics or `compute`, and no `network` where there was no recipe.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is corrupt, no frostline checkpoint, names classes to be imported, or does not fit.
        """
        if not weights_only:
            raise ValueError("weights_only=False: a checkpoint is read as tensors and plain values only")
        classifier = from_checkpoint(cls, checkpoint_path, arguments, strict=strict, trust_checkpoint=trust_checkpoint)
        return classifier.to(map_location or "cpu")

    @property
    def classes(self) -> list[str]:
        """The class names; a logit's index is its class."""
        return list(self.data_spec.classes)

    @property
    def policy(self) -> FreezePolicy:
        """What trains when."""
        return self.resolved.policy

    @property
    def settings(self) -> dict[str, Any]:
        """The plain values of the run that checkpoints record."""
        return dict(self.checkpoint_options.settings)

    @property
    def temperature(self) -> float:
        """By which logits are divided for probabilities; see `frostline calibrate`."""
        return 1.0 if self.calibration is None else float(self.calibration["temperature"])

    @property
    def engine(self) -> str:
        """What computes the frozen layers; `auto` before it is decided, at the start of a fit."""
        return self._engine.name

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, height, width), uint8 or floats in [0, 1]."""
        inputs = self.normalised(images)
        split = self._fast_path.current(self.network)
        logits: Tensor = self.network(inputs) if split is None else split.suffix(split.prefix(inputs))
        return logits

    def _network_inputs(self, batch: Sequence[Tensor]) -> Tensor:
        return self.normalised.forward(batch[0])

    def configure_callbacks(self) -> list[lightning.pytorch.callbacks.Callback]:
        """The callbacks that obey the policy; always the same ones, as Lightning asks again for `test`."""
        return [self._schedule, self._fast_path] if self.compute_options.frozen_prefix else [self._schedule]

    def feature_facts(self) -> dict[str, Any]:
        """Which features were stored, and how many were read instead of computed; see `FastPath.facts`."""
        return self._fast_path.facts()

    def build_optimizer(self) -> Optimizer:
        """The optimizer over all that ever trains; see `TrainingOptions.build_optimizer`."""
        return self.training_options.build_optimizer(self.network, self.resolved)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer and its schedule per step."""
        optimizer = self.build_optimizer()
        scheduler = self.training_options.scheduler(optimizer, *run_length(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Refuse batches of one image that a batch norm would train on, before it does.

        Raises:
            ValueError: names the batch norms, and what to change.
        """
        self.calibration = None  # it is of the weights before
        side, trainer = self.data_spec.image_size, self.trainer
        image = self.normalised(torch.zeros(1, 3, side, side, device=self.device))
        check_batches(trainer.train_dataloader, image, self.network, self.resolved, processes=trainer.world_size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's loss; stops at the first one that is not finite, before it reaches the weights."""
        with one_value_explained(processes=self.trainer.world_size):
            logits, labels, loss = self._loss("train", batch, batch_idx)
        weight = total_weight(self.loss, labels)
        scaled = self._step_mean.scaled(loss, weight, trainer=self.trainer, batch_idx=batch_idx)
        self.log("train/loss", self._step_mean.logged(self.trainer))
        self.train_loss.update(*mean_over_images(loss, weight, len(labels)))
        self.train_accuracy.update(logits.detach(), hard_labels(labels))
        return scaled

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward, and after an optimizer step's last batch make its gradients those of one mean."""
        super().backward(loss, *args, **kwargs)
        self._step_mean.correct_gradients(self.network, self.trainer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, also for fused optimizers in bf16-mixed; see `clip_in_mixed_precision`."""
        precision = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(precision, MixedPrecision):
            clip_in_mixed_precision(precision, optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_epoch_end(self) -> None:
        self.log("train/loss_epoch", self.train_loss)
        self.log("train/accuracy", self.train_accuracy, prog_bar=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's logits, for callbacks."""
        return self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's logits, for callbacks."""
        return self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """`probabilities` (n, classes), float32, and the most probable `classes`, int64 (n,), of a batch of n images.

        Args:
            batch: images (n, 3, height, width), uint8 or floats in [0, 1], or a sequence that begins with them.
        """
        images = batch if isinstance(batch, Tensor) else batch[0]
        probabilities = at_temperature(mean_logits(self, images, self.test_time_augmentation), self.temperature)
        return {"probabilities": probabilities, "classes": probabilities.argmax(dim=1)}

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities (batch, classes), on the CPU, of images (batch, 3, height, width) on any device."""
        with eval_mode(self):
            return self.predict_step(images.to(self.device), 0)["probabilities"].cpu()

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the weights as the network does, and add what it takes to build the classifier again.

        Raises:
            FloatingPointError: a weight, a statistic or the optimizer's state is NaN or infinite; nothing is written.
        """
        check_state(checkpoint, step=self.global_step, epoch=self.current_epoch)
        checkpoint["state_dict"] = network_state(checkpoint["state_dict"])
        checkpoint[CHECKPOINT_KEY] = description(
            spec=self.data_spec,
            policy=self.policy,
            loss=self.loss,
            options=self.checkpoint_options,
            engine=self._engine.state(),
            calibration=self.calibration,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Undo the renaming, for Lightning.

        Raises:
            ValueError: the checkpoint holds a value that is NaN or infinite.
        """
        source = str(self.trainer.ckpt_path or "The checkpoint")
        check_finite(source, {key: checkpoint.get(key) for key in ("state_dict", "optimizer_states")})
        self._engine.load(checkpoint[CHECKPOINT_KEY].get("engine", {}))
        if self.trainer.state.fn != "fit":
            self.calibration = checkpoint[CHECKPOINT_KEY].get("calibration")
        else:
            drop_frozen_group(checkpoint, groups_now=lambda: len(self.build_optimizer().param_groups))
        checkpoint["state_dict"] = module_state(checkpoint["state_dict"], self)

    def _loss(self, split: str, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (batch, classes), targets, and the loss, which is finite."""
        if isinstance(batch, StoredBatch):
            images, targets = batch.values, batch.targets
            logits = self._fast_path.logits(split, batch, self)
        else:
            images, targets = batch
            logits = self(images) if split == "train" else mean_logits(self, images, self.test_time_augmentation)
        loss: Tensor = self.loss(logits, targets)
        name = "The loss" if split == "train" else f"The {split} loss"
        step, epoch = self.global_step, self.current_epoch
        check_loss(loss, name, images=images, batch_idx=batch_idx, step=step, epoch=epoch)
        return logits, targets, loss

    def _evaluate(self, split: str, batch: Batch, batch_idx: int) -> Tensor:
        logits, labels, loss = self._loss(split, batch, batch_idx)
        weight = total_weight(self.loss, labels)
        mean = mean_over_images(loss, weight, len(labels))
        self._evaluation(split).update(logits, labels, *mean, temperature=self.temperature)
        return logits

    def _evaluation(self, split: str) -> Evaluation:
        evaluation = self.evaluations[split]
        assert isinstance(evaluation, Evaluation)
        return evaluation

    def _finish(self, split: str) -> None:
        scalars, self.confusion = self._evaluation(split).results(split, trainer=self.trainer)
        for name, value in scalars.items():
            # The values are the same on every process already.
            self.log(f"{split}/{name}", value, prog_bar=name == "accuracy", rank_zero_only=False, sync_dist=False)
