"""Options of an `ImageClassifier`: how it learns, how it computes, what its checkpoints record."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torchmetrics import Metric

from frostline.freezing.resolved import ResolvedPolicy
from frostline.optim import DecayExclusion, OptimizerBuilder, checked_optimizer, parameter_groups
from frostline.prefix.engine_names import DEFAULT_ENGINE, EngineName, converts
from frostline.schedulers import SchedulerBuilder, constant


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingOptions:
    """How a classifier learns, and by what it is measured.

    Attributes:
        optimizer: builds the optimizer from named parameter groups; a class of torch.optim, or a partial of one, will
            do. No rate is invented: None trains nothing.
        exclude_from_decay: what weight decay leaves out: `bias`, `norm` (normalisation layers).
        scheduler: builds the learning-rate schedule, stepped once per optimizer step.
        loss: maps logits and labels to a scalar; None: the cross-entropy, or the loss of the checkpoint that is loaded.
        metrics: further metrics of an evaluation by name, logged as val/NAME and test/NAME: from probabilities
            (batch, classes) and class indices (batch,) to a scalar.
    """

    optimizer: OptimizerBuilder | None = None
    exclude_from_decay: Collection[DecayExclusion] = ()
    scheduler: SchedulerBuilder = field(default_factory=constant)
    loss: nn.Module | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def build_optimizer(self, network: nn.Module, resolved: ResolvedPolicy) -> Optimizer:
        """The optimizer over all that ever trains, in fixed named groups, with the builder's own values.

        Raises:
            ValueError: there is no builder, or `optim.checked_optimizer` refuses what it builds.
        """
        if self.optimizer is None:
            raise ValueError(
                "optimizer: none is given, and frostline invents no learning rate. Give "
                "training=TrainingOptions(optimizer=partial(torch.optim.SGD, lr=…))"
            )
        groups = parameter_groups(network, resolved=resolved, exclude_from_decay=self.exclude_from_decay)
        return checked_optimizer(self.optimizer, groups)


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Where the features of the frozen layers are stored.

    Attributes:
        folder: of all stores; processes and runs may share it.
        limit_bytes: of all stores together; the least recently used are evicted.
        views: augmented views stored of each training image; 0: features of augmented training images are not stored.
    """

    folder: Path
    limit_bytes: int = 20 * 10**9
    views: int = 0


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """How the network is run; none of these changes what it computes, beyond the last bits of a convolution.

    Attributes:
        channels_last: images and weights in channels-last memory format.
        compile: run the network by torch.compile.
        frozen_prefix: run the frozen layers without an autograd graph.
        feature_cache: where their features are stored; None stores nothing. Needs `frozen_prefix`.
        engine: what computes the frozen layers. `auto`: the engine that a loaded checkpoint records; else `openvino`
            on a CPU where it is installed and the images are so many that the conversion pays, and `torch` elsewhere.

    Raises:
        ValueError: a feature cache or an engine other than torch without `frozen_prefix`.
    """

    channels_last: bool = False
    compile: bool = False
    frozen_prefix: bool = True
    feature_cache: FeatureCache | None = None
    engine: EngineName = DEFAULT_ENGINE

    def __post_init__(self) -> None:
        if self.feature_cache is not None and not self.frozen_prefix:
            raise ValueError("feature_cache: needs frozen_prefix=True")
        if converts(self.engine) and not self.frozen_prefix:
            raise ValueError(f"engine: {self.engine} needs frozen_prefix=True")


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """What checkpoints record besides the weights, and how one of another freezing policy is resumed.

    Attributes:
        recipe: plain values from which the network can be built again (`model`, `head`); None for a network that only
            you can build, to be given again to `load_from_checkpoint`.
        settings: plain values of the run, such as its config; stored as they are.
        engine: what computed the frozen layers of the checkpoint that was loaded; see `ComputeOptions.engine`.
        calibration: `temperature`, by which logits are divided for probabilities, and the results that `frostline
            calibrate` measured with it; None: probabilities are the softmax of the logits.
        on_policy_change: `refuse` a checkpoint of another policy, or `restart` at the policy's first phase with the
            checkpoint's weights, step and epoch.
    """

    recipe: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    on_policy_change: Literal["refuse", "restart"] = "refuse"
