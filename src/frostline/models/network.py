"""A backbone with its initial weights and its head, from plain values."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from frostline.models.backbones import build_backbone, classifier_of, last_layer, replace_classifier
from frostline.models.heads import build_head
from frostline.models.weights import LoadedWeights, find_weights, load_weights


def build_network(
    *, model: Mapping[str, Any], head: Mapping[str, Any], classes: int, weights: str = "none", same_classes: bool = True
) -> tuple[nn.Module, LoadedWeights]:
    """The network from images (batch, 3, height, width) to logits (batch, classes), and where its weights are from.

    The weights are loaded after the head is replaced; `head: {name: pretrained}` has the size that the weights hold.

    Args:
        same_classes: whether the classifier that the weights hold is for these classes; if not, it is not loaded.

    Raises:
        ValueError: a part is unknown or does not fit; `head=pretrained` with another number of classes.
        FileNotFoundError: the weights' file does not exist or cannot be had.
    """
    network = build_backbone(model)
    names = classifier_of(network)
    initial = find_weights(weights, name=model.get("name")).named_as(network, classifier=names)
    if head.get("name") == "pretrained":
        if not same_classes:
            raise ValueError(f"head=pretrained: the classifier in `{weights}` is for other classes; use head=linear")
        if initial.state is not None:
            if f"{names[0]}.weight" not in initial.state:
                raise ValueError(
                    f"head=pretrained: `{initial.source}` holds no linear classifier ({names[0]}.weight). Name its "
                    "head instead"
                )
            replace_classifier(network, names, classes=len(initial.state[f"{names[0]}.weight"]))
        layer = last_layer(network.get_submodule(names[0]))
        has = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if has != classes:
            raise ValueError(
                f"head=pretrained keeps the network's own classifier of {has} classes, but the data has {classes}. "
                "Use head=linear for a new one"
            )
    else:
        plain = head.get("name") == "linear" and not head.get("dropout")
        build = None if plain else partial(build_head, head)
        replace_classifier(network, names, classes=classes, build=build)
    return network, load_weights(network, initial, names=names, classifier=same_classes)
