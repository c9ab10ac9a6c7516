"""ImageClassifier: the LightningModule that trains a network under a freezing policy."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from frostline.batch_of_one import explained, refusal, single_valued, smallest_batch
from frostline.checkpoint import CHECKPOINT_FORMAT, CHECKPOINT_KEY
from frostline.fast_path import FastPath
from frostline.finite import check_finite, diverged, diverged_tensors, not_finite
from frostline.freezing.apply import apply_phase
from frostline.freezing.callback import FreezingSchedule
from frostline.freezing.lightning_internals import accumulates, steps_per_epoch
from frostline.freezing.policy import FreezePolicy
from frostline.loading import from_checkpoint
from frostline.losses import CrossEntropy, total_weight
from frostline.metrics import Evaluation
from frostline.optim import parameter_groups
from frostline.options import CheckpointOptions, ComputeOptions, OptimizerOptions
from frostline.prefix.mixed_batch import MixedBatch
from frostline.schedulers import SchedulerBuilder, constant
from frostline.step_mean import StepMean, scale_gradients

if TYPE_CHECKING:
    from typing_extensions import Self

PREFIX = "network."
CHECK_EVERY_N_BATCHES = 50
UNSUPPORTED_OPTIMIZERS = (torch.optim.LBFGS, torch.optim.SparseAdam)

Batch: TypeAlias = tuple[Tensor, Tensor] | MixedBatch
OptimizerBuilder: TypeAlias = Callable[[list[dict[str, Any]]], Optimizer]


class ImageClassifier(lightning.LightningModule):
    """Trains a network that maps images (batch, 3, height, width) to logits (batch, classes).

    Args:
        network: its parameters keep their names in the checkpoint, so that a torchvision network's weights load into
            plain torchvision.
        images: what `ImageDataModule.describe()` says of the images: classes, mean, std, image_size, resize.
        policy: what of the network trains when; None trains all of it.
        loss: maps logits and labels to a scalar; None is the cross-entropy.
        optimizer: builds the optimizer from named parameter groups; a partial of a torch optimizer will do. None is SGD
            with momentum 0.9 at 0.01.
        scheduler: builds the learning-rate schedule, stepped once per optimizer step.
        must_train: names or globs of what trains whatever the policy says: a head that starts from random weights.
        recipe: plain values from which the network can be built again (`model`, `head`); None for a network that only
            you can build, whose checkpoint then holds its weights but cannot be opened by `load_classifier`.
        compute: how the network is run: memory format, torch.compile, frozen layers without a graph, feature cache.
        optimizer_options: what the optimizer's groups hold and what weight decay leaves out.
        checkpoint_options: what checkpoints record, and what becomes of one with another policy.

    Nothing is set after construction.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        images: Mapping[str, Any],
        policy: FreezePolicy | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerBuilder | None = None,
        scheduler: SchedulerBuilder | None = None,
        must_train: Sequence[str] = (),
        recipe: Mapping[str, Any] | None = None,
        compute: ComputeOptions = ComputeOptions(),  # noqa: B008 - frozen
        optimizer_options: OptimizerOptions = OptimizerOptions(),  # noqa: B008
        checkpoint_options: CheckpointOptions = CheckpointOptions(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.network = network
        self.images = dict(images)
        self.policy = policy or FreezePolicy.static("all")
        self.must_train = tuple(must_train)
        self.resolved = self.policy.resolve(network, always_trainable=self.must_train)
        self.loss = loss or CrossEntropy()
        self.recipe = None if recipe is None else dict(recipe)
        self.compute_options = compute
        self.optimizer_options = optimizer_options
        self.settings = dict(checkpoint_options.settings)
        self._on_policy_change = checkpoint_options.on_policy_change
        self._schedule: FreezingSchedule | None = None
        self._fast_path: FastPath | None = None
        self._build_optimizer = optimizer or partial(torch.optim.SGD, lr=0.01, momentum=0.9)
        self._build_scheduler = scheduler or constant()
        classes = len(self.classes)
        self.train_accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.train_loss = MeanMetric()
        self._step_mean = StepMean()
        self.evaluations = nn.ModuleDict({split: Evaluation(classes) for split in ("val", "test")})
        self.confusion: Tensor | None = None
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(self.images[name]).view(1, 3, 1, 1), persistent=False)
        apply_phase(network, self.resolved.phases[0])
        if compute.channels_last:
            network.to(memory_format=torch.channels_last)
        if compute.compile:
            network.compile()

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

        Optimizer, scheduler, `must_train` and how to compute are not in the file.

        Args:
            map_location: the device; None for the CPU.
            strict: the network must have all of the checkpoint's tensors, and no others.
            weights_only: the file is never read otherwise.
            trust_checkpoint: import the classes of your own model or head that the file names, which runs their code.
            arguments: of the constructor; they take the place of the checkpoint's. `network` is needed where the
                checkpoint has no recipe.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is corrupt, no frostline checkpoint, names classes to be imported, or does not fit.
        """
        if not weights_only:
            raise ValueError("weights_only=False would run the code that a file names; frostline's need it for nothing")
        classifier = from_checkpoint(
            cls, checkpoint_path, arguments=arguments, strict=strict, trust_checkpoint=trust_checkpoint
        )
        return classifier.to(map_location or "cpu")

    @property
    def classes(self) -> list[str]:
        """The class names; a logit's index is its class."""
        return list(self.images["classes"])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, height, width), uint8 or floats in [0, 1]."""
        inputs = self.normalised(images)
        line = None if self._fast_path is None else self._fast_path.line
        logits: Tensor = self.network(inputs) if line is None else line.suffix(line.prefix(inputs))
        return logits

    def normalised(self, images: Tensor) -> Tensor:
        """What the network takes: floats (batch, 3, height, width) of mean 0 and standard deviation 1 per channel."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        pixels = (pixels - self.mean) / self.std
        return pixels.contiguous(memory_format=torch.channels_last) if self.compute_options.channels_last else pixels

    def configure_callbacks(self) -> list[lightning.pytorch.callbacks.Callback]:
        """The policy's own callbacks, so that a Trainer built by hand obeys the policy too.

        Always the same ones: Lightning asks anew for `test`, and would replace those that hold the fit's verdict.
        """
        if self._schedule is None:
            self._schedule = FreezingSchedule(
                policy=self.resolved,
                attribute="network",
                on_mismatch=self._on_policy_change,
                inputs=lambda batch: self.normalised(batch[0]),
            )
        if not self.compute_options.frozen_prefix:
            return [self._schedule]
        if self._fast_path is None:
            self._fast_path = FastPath(
                schedule=self._schedule,
                inputs=self.normalised,
                cache=self.compute_options.feature_cache,
                compiled=self.compute_options.compile,
            )
        return [self._schedule, self._fast_path]

    def feature_facts(self) -> dict[str, Any]:
        """Which features were kept, and how many were read instead of computed; see `FastPath.facts`."""
        return {} if self._fast_path is None else self._fast_path.facts()

    def build_optimizer(self) -> Optimizer:
        """The optimizer over all that ever trains, in fixed named groups, with the builder's own values.

        Raises:
            ValueError: it takes no groups, a rate is not finite, or weight decay reaches what is excluded from it.
        """
        options = self.optimizer_options
        groups = parameter_groups(self.network, resolved=self.resolved, exclude_from_decay=options.exclude_from_decay)
        spared = {id(entry) for group in groups if "weight_decay" in group for entry in group["params"]}
        if options.include_frozen and self.resolved.never_trained:
            frozen = [self.network.get_parameter(name) for name in self.resolved.never_trained]
            groups.append({"params": frozen, "name": "frozen"})
        try:
            optimizer = self._build_optimizer(groups)
        except ValueError as error:
            raise ValueError(f"optimizer: {error}") from error
        kind = type(optimizer).__name__
        if isinstance(optimizer, UNSUPPORTED_OPTIMIZERS):
            raise ValueError(
                f"optimizer: {kind} is not supported: LBFGS takes no groups of parameters, SparseAdam sparse gradients "
                "only. Use another, such as AdamW"
            )
        for group in optimizer.param_groups:
            for key in ("lr", "weight_decay"):
                if not math.isfinite(group.get(key, 0.0)):
                    raise ValueError(f"{key}: must be finite; {kind} has {group[key]}")
            if group.get("weight_decay") and any(id(entry) in spared for entry in group["params"]):
                raise ValueError(
                    f"exclude_from_decay: {kind} decays what is excluded, as it was not built from the "
                    "groups that it was given"
                )
        return optimizer

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer and its schedule per step."""
        optimizer, trainer = self.build_optimizer(), self.trainer
        steps = int(trainer.estimated_stepping_batches)
        # A loader without a length has no epochs: the run counts as one.
        epoch = steps_per_epoch(trainer) if math.isfinite(trainer.num_training_batches) else steps
        scheduler = self._build_scheduler(optimizer, steps, epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Refuse batches of one image that a batch norm would train on, before it does.

        Raises:
            ValueError: names the batch norms, and what to change.
        """
        if smallest_batch(self.trainer.train_dataloader) != 1:
            return
        side = self.images["image_size"]
        inputs = self.normalised(torch.zeros(1, 3, side, side, device=self.device))
        processes = self.trainer.world_size
        if names := single_valued(self.network, self.resolved, inputs, processes=processes):
            raise refusal(names, processes=processes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's loss; stops at the first one that is not finite, before it reaches the weights."""
        with explained(processes=self.trainer.world_size):
            logits, labels = self._logits("train", batch)
        loss: Tensor = self.loss(logits, labels)
        self._check_finite(loss, "The loss", batch, batch_idx)
        weight = total_weight(self.loss, labels)
        scaled = self._step_mean.scaled(loss, weight, trainer=self.trainer, batch_idx=batch_idx)
        self.log("train/loss", self._step_mean.mean(trainer=self.trainer, reduce=self._logs_this_step()))
        self.train_loss.update(*_of_images(loss, weight, len(labels)))
        self.train_accuracy.update(logits.detach(), labels.argmax(dim=1) if labels.ndim == 2 else labels)
        return scaled

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward, and after an optimizer step's last batch what makes its gradients those of one mean."""
        super().backward(loss, *args, **kwargs)
        if not accumulates(self.trainer):
            factor = self._step_mean.correction(trainer=self.trainer)
            if factor is not None:
                scale_gradients(self.network, factor)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, also for fused optimizers in bf16-mixed: without a scaler there is nothing that they would unscale.

        Raises:
            ValueError: a fused optimizer in 16-mixed, whose gradients are scaled still.
        """
        precision = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(precision, MixedPrecision):
            if precision.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
                raise ValueError(
                    "gradient_clip_val: in 16-mixed a fused optimizer cannot be clipped. Use fused=False or "
                    "precision='bf16-mixed'"
                )
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(precision, optimizer, gradient_clip_val, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _logs_this_step(self) -> bool:
        """Whether several processes have to agree on a value, as the loggers take it at this step."""
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        due = bool(trainer.loggers and every) and (trainer.global_step + 1) % every == 0
        return due and trainer.world_size > 1 and not accumulates(trainer)

    def _check_finite(self, loss: Tensor, name: str, batch: Batch, batch_idx: int) -> None:
        # Asking a GPU for the value would make it wait at each step, so there it is asked now and then.
        if loss.is_cuda and batch_idx % CHECK_EVERY_N_BATCHES:
            return
        if not torch.isfinite(loss):
            images = batch.images if isinstance(batch, MixedBatch) else batch[0]
            what = f"{name} became {loss.item()}"
            raise diverged(what, step=self.global_step, epoch=self.current_epoch, images=images)

    def on_train_epoch_end(self) -> None:
        self.log("train/loss_epoch", self.train_loss)
        self.log("train/accuracy", self.train_accuracy, prog_bar=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """`probabilities` (n, classes), float32, and the most probable `classes`, int64 (n,), of a batch of n images.

        Args:
            batch: images (n, 3, height, width), uint8 or floats in [0, 1], or a sequence that begins with them.
        """
        images = batch if isinstance(batch, Tensor) else batch[0]
        probabilities = self(images).float().softmax(dim=1)
        return {"probabilities": probabilities, "classes": probabilities.argmax(dim=1)}

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities (batch, classes), on the CPU, of images (batch, 3, height, width) on any device."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            logits: Tensor = self(images.to(self.device))
            return logits.float().softmax(dim=1).cpu()
        finally:
            for module, mode in modes:
                module.training = mode

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the weights as the network does, and add what is needed to use them.

        Raises:
            FloatingPointError: a weight, a statistic or the optimizer's state is NaN or infinite; nothing is written.
        """
        kept = {key: checkpoint[key] for key in ("state_dict", "optimizer_states") if key in checkpoint}
        if names := not_finite(kept):
            raise diverged_tensors(names, step=self.global_step, epoch=self.current_epoch)
        checkpoint["state_dict"] = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(PREFIX)
        }
        checkpoint[CHECKPOINT_KEY] = {
            "format": CHECKPOINT_FORMAT,
            "recipe": self.recipe,
            "images": self.images,
            "loss": getattr(self.loss, "recipe", None),
            "policy": self.policy.to_dict(),
            "settings": self.settings,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Undo the renaming, for Lightning.

        Raises:
            ValueError: the checkpoint holds a value that is NaN or infinite.
        """
        source = str(self.trainer.ckpt_path or "The checkpoint")
        check_finite(source, {key: checkpoint.get(key) for key in ("state_dict", "optimizer_states")})
        own = self.state_dict()
        state = {PREFIX + name: tensor for name, tensor in checkpoint["state_dict"].items()}
        # What a user's loss or head of metrics keeps outside the network is not in the file: it stays as built.
        checkpoint["state_dict"] = {**{k: v for k, v in own.items() if not k.startswith(PREFIX)}, **state}

    def _logits(self, split: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (batch, classes) and targets."""
        if isinstance(batch, MixedBatch):
            assert self._fast_path is not None
            return self._fast_path.logits(split, batch, self), batch.targets
        images, targets = batch
        return self(images), targets

    def _evaluate(self, split: str, batch: Batch, batch_idx: int) -> None:
        logits, labels = self._logits(split, batch)
        evaluation = self.evaluations[split]
        assert isinstance(evaluation, Evaluation)
        loss: Tensor = self.loss(logits, labels)
        self._check_finite(loss, f"The {split} loss", batch, batch_idx)
        evaluation.update(logits, labels, *_of_images(loss, total_weight(self.loss, labels), len(labels)))

    def _finish(self, split: str) -> None:
        evaluation = self.evaluations[split]
        assert isinstance(evaluation, Evaluation)
        scalars, self.confusion = evaluation.compute()
        evaluation.reset()
        count = int(scalars.pop("count"))
        self._check_count(split, count)
        if not math.isfinite(scalars["loss"]):
            what = f"The {split} loss became {scalars['loss']}"
            raise diverged(what, step=self.global_step, epoch=self.current_epoch)
        for name, value in scalars.items():
            # The values are the same on every process already.
            self.log(f"{split}/{name}", value, prog_bar=name == "accuracy", rank_zero_only=False, sync_dist=False)

    def _check_count(self, split: str, count: int) -> None:
        """Each image counts exactly once, on however many processes."""
        trainer = self.trainer
        loader = trainer.val_dataloaders if split == "val" else trainer.test_dataloaders
        limit = trainer.limit_val_batches if split == "val" else trainer.limit_test_batches
        dataset = getattr(loader, "dataset", None)
        # An int is a number of batches, and 1 == 1.0.
        if trainer.sanity_checking or isinstance(limit, int) or limit != 1.0 or dataset is None:
            return
        if count != len(dataset):
            raise RuntimeError(
                f"{count} images were counted in the {split} evaluation, but there are {len(dataset)}. Build the "
                "Trainer with use_distributed_sampler=False and take the loaders from ImageDataModule"
            )


def _of_images(loss: Tensor, weight: Tensor | int | None, count: int) -> tuple[Tensor, Tensor | int]:
    """A batch's loss and what it counts for in a mean over batches; a sum's is the mean over the images."""
    loss = loss.detach().float()
    return (loss / count, count) if weight is None else (loss, weight)


def load_classifier(
    path: str | Path, *, device: str | torch.device = "cpu", trust_checkpoint: bool = False
) -> ImageClassifier:
    """`ImageClassifier.load_from_checkpoint`, on a device and in eval mode."""
    return ImageClassifier.load_from_checkpoint(path, device, trust_checkpoint=trust_checkpoint).eval()
