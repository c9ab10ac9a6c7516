"""Options of an `ImageClassifier`: how it computes, what its optimizer holds, what its checkpoints record."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from frostline.freezing.resolved import ResolvedPolicy
from frostline.optim import DecayExclusion, parameter_groups


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

    Raises:
        ValueError: a feature cache without `frozen_prefix`.
    """

    channels_last: bool = False
    compile: bool = False
    frozen_prefix: bool = True
    feature_cache: FeatureCache | None = None

    def __post_init__(self) -> None:
        if self.feature_cache is not None and not self.frozen_prefix:
            raise ValueError("feature_cache: needs frozen_prefix=True")

    def prepare(self, network: nn.Module) -> None:
        """Give a network this memory format and compile it, in place."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.compile:
            network.compile()


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The parameter groups that the optimizer is built from.

    Attributes:
        exclude_from_decay: what weight decay leaves out: `bias`, `norm` (normalisation layers).
    """

    exclude_from_decay: Collection[DecayExclusion] = ()

    def groups(self, network: nn.Module, resolved: ResolvedPolicy) -> list[dict[str, Any]]:
        """The groups of a network under a policy; see `parameter_groups`."""
        return parameter_groups(network, resolved=resolved, exclude_from_decay=self.exclude_from_decay)


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """What checkpoints record besides the weights, and how one of another freezing policy is resumed.

    Attributes:
        settings: plain values of the run, such as its config; stored as they are.
        on_policy_change: `refuse` a checkpoint of another policy, or `restart` at the policy's first phase with the
            checkpoint's weights, step and epoch.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    on_policy_change: Literal["refuse", "restart"] = "refuse"
