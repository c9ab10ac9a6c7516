"""A backbone with its initial weights and its head, from plain values."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from frostline.models.heads import build_head
from frostline.models.resnet import build_backbone, features_of
from frostline.models.weights import InitialState, LoadedWeights, find_weights, load_weights


def build_network(
    *, model: Mapping[str, Any], head: Mapping[str, Any], classes: int, weights: str = "none", same_classes: bool = True
) -> tuple[nn.Module, LoadedWeights]:
    """The network from images (batch, 3, height, width) to logits (batch, classes), and where its weights are from.

    The weights are loaded before the head is replaced, so that `head: {name: pretrained}` can keep the loaded `fc`.

    Args:
        same_classes: whether the classifier that the weights hold is for these classes; if not, it is not loaded.

    Raises:
        ValueError: a part is unknown or does not fit; `head=pretrained` with another number of classes.
        FileNotFoundError: the weights' file does not exist or cannot be had.
    """
    network = build_backbone(model)
    initial = find_weights(weights, name=model.get("name")).named_as(network)
    if head.get("name") == "pretrained":
        if not same_classes:
            raise ValueError(f"head=pretrained: the classifier in `{weights}` is for other classes; use head=linear")
        network.fc = _classifier_in(initial, network)
    else:
        network.fc = build_head(head, features=features_of(network), classes=classes)
    has = [module.out_features for module in network.fc.modules() if isinstance(module, nn.Linear)]
    if has and has[-1] != classes:
        raise ValueError(
            f"head=pretrained keeps the network's own classifier of {has[-1]} classes, but the data has {classes}. "
            "Use head=linear for a new one"
        )
    return network, load_weights(network, initial, classifier=same_classes)


def _classifier_in(initial: InitialState, network: nn.Module) -> nn.Module:
    """A classifier of the size that the weights hold, so that they can be loaded into it."""
    if initial.state is None:
        assert isinstance(network.fc, nn.Module)
        return network.fc
    if "fc.weight" not in initial.state:
        raise ValueError(
            f"head=pretrained: `{initial.source}` holds no linear classifier (fc.weight). Name its head instead"
        )
    classes, features = initial.state["fc.weight"].shape
    return nn.Linear(features, classes)
