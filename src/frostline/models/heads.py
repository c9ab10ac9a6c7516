"""Heads: the classifiers that replace a network's `fc`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from frostline.signatures import construct, find_class


def linear_head(*, features: int, classes: int, dropout: float = 0.0) -> nn.Module:
    """One linear layer; with dropout before it, a `Sequential` (keys `fc.1.weight`, `fc.1.bias`)."""
    linear = nn.Linear(features, classes)
    return nn.Sequential(nn.Dropout(dropout), linear) if dropout else linear


def mlp_head(*, features: int, classes: int, hidden: Sequence[int], dropout: float = 0.0) -> nn.Module:
    """Linear layers of the hidden sizes, each followed by ReLU and dropout, then one linear layer to the classes."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(features, size), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        features = size
    return nn.Sequential(*layers, nn.Linear(features, classes))


HEADS: Mapping[str, Callable[..., nn.Module]] = {"linear": linear_head, "mlp": mlp_head}


def build_head(config: Mapping[str, Any], *, features: int, classes: int) -> nn.Module:
    """A new head that maps (batch, features) to (batch, classes).

    `config` is `{"name": "linear" | "mlp", ...}`, or `{"_target_": "package.Class", ...}` for a head of the user's own,
    whose constructor takes `features` and `classes` by keyword.

    Raises:
        ValueError: an unknown name, or a key that the head does not take.
    """
    options = {key: value for key, value in config.items() if key not in ("name", "_target_")}
    sizes = {"features": features, "classes": classes}
    if "_target_" in config:
        own = find_class(config["_target_"], subclass_of=nn.Module, what="head")
        head = construct(own, {**sizes, **options}, what="head")
        assert isinstance(head, nn.Module)
        return head
    if config["name"] not in HEADS:
        raise ValueError(f"head: unknown head `{config['name']}`. The choices are: {', '.join(HEADS)}, pretrained")
    return construct(HEADS[config["name"]], {**sizes, **options}, what="head")
