"""Backbones: torchvision's residual networks, under torchvision's own names and state-dict keys."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from frostline.signatures import construct, find_class

# Names of torchvision builders of one family: the same stages, the classifier in `fc`.
RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


def build_backbone(config: Mapping[str, Any]) -> nn.Module:
    """A network with random weights; its classifier sits in `fc`.

    `config` is `{"name": "resnet18", ...}`, where further keys go to torchvision's builder, or
    `{"_target_": "package.Class", ...}` for a network of the user's own.

    Raises:
        ValueError: an unknown name, a key that the builder does not take, or an own network without an `fc`.
    """
    options = {key: value for key, value in config.items() if key not in ("name", "_target_")}
    if "_target_" in config:
        network = construct(find_class(config["_target_"], subclass_of=nn.Module, what="model"), options, what="model")
        assert isinstance(network, nn.Module)
        if not isinstance(getattr(network, "fc", None), nn.Module):
            raise ValueError(
                f"model: `{config['_target_']}` has no module `fc`. A backbone of your own keeps its classifier "
                "in `fc`, as torchvision's ResNets do, so that the head can be replaced."
            )
        return network
    if config["name"] not in RESNETS:
        raise ValueError(f"model: unknown network `{config['name']}`. The choices are: {', '.join(RESNETS)}")
    if "weights" in options:  # torchvision would download them, from a checkpoint's word alone
        raise ValueError("weights: goes to `build_network(weights=…)`, not into `model`")
    from torchvision import models  # 2 s of imports, needed only here

    built: nn.Module = construct(getattr(models, config["name"]), {"weights": None, **options}, what="model")
    return built


def features_of(network: nn.Module) -> int:
    """The number of features that the network's classifier `fc` takes.

    Raises:
        ValueError: `fc` holds no linear layer to read it from.
    """
    for module in network.get_submodule("fc").modules():
        if isinstance(module, nn.Linear):
            return module.in_features
    raise ValueError("The network's `fc` holds no linear layer, so the size of a new head cannot be read from it.")
