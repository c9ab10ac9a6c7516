"""Between a classifier and its checkpoint: names of tensors, and a classifier built from a file alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from frostline.checkpoint import CHECKPOINT_FORMAT, CHECKPOINT_KEY, check_trust, read_checkpoint
from frostline.freezing.policy import FreezePolicy
from frostline.losses import build_loss
from frostline.models.network import build_network
from frostline.options import CheckpointOptions

T = TypeVar("T")
PREFIX = "network."  # of the network's names in the classifier


def network_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a classifier's checkpoint holds of its state dict: the network's tensors, under the network's names."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def description(
    *, recipe: Mapping[str, Any] | None, images: Mapping[str, Any], loss: nn.Module, policy: FreezePolicy
) -> dict[str, Any]:
    """Plain values from which `from_checkpoint` builds the classifier again."""
    return {
        "format": CHECKPOINT_FORMAT,
        "recipe": recipe,
        "images": images,
        "loss": getattr(loss, "recipe", None),
        "policy": policy.to_dict(),
    }


def module_state(state: Mapping[str, Tensor], *, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`network_state` reversed, for Lightning: what the classifier keeps outside the network stays as in `own`."""
    outside = {name: tensor for name, tensor in own.items() if not name.startswith(PREFIX)}
    return {**outside, **{PREFIX + name: tensor for name, tensor in state.items()}}


def from_checkpoint(
    build: Callable[..., T],
    path: str | Path,
    arguments: Mapping[str, Any],
    *,
    strict: bool = True,
    trust_checkpoint: bool = False,
) -> T:
    """What `build` makes of the arguments and weights in a checkpoint.

    Args:
        build: `ImageClassifier`, or a subclass that takes the same arguments.
        arguments: these take the place of the checkpoint's; with a `network`, its recipe is not read.
        strict: the network must have all of the checkpoint's tensors, and no others.
        trust_checkpoint: import the classes of your own model or head that the file names, which runs their code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is corrupt or no frostline checkpoint; it does not say how its network is built, and no
            `network` is given; it names classes to be imported.
    """
    checkpoint = read_checkpoint(path)
    described = checkpoint[CHECKPOINT_KEY]
    recipe, images = described["recipe"], arguments.get("images", described["images"])
    if recipe is None and "network" not in arguments:
        raise ValueError(
            f"{path}: this checkpoint was made from a network built by hand. Build it, and load its weights with "
            "ImageClassifier.load_from_checkpoint(path, network=…)"
        )
    if "network" not in arguments and not trust_checkpoint:
        check_trust(path, recipe)
    try:
        network = (
            arguments["network"]
            if "network" in arguments
            else build_network(model=recipe["model"], head=recipe["head"], classes=len(images["classes"]))[0]
        )
        network.load_state_dict(checkpoint["state_dict"], strict=strict)
        stored = {
            "network": network,
            "images": images,
            "policy": FreezePolicy.from_dict(described["policy"]),
            "loss": build_loss(**described["loss"]) if described.get("loss") else None,
            "recipe": recipe,
            "checkpoint_options": CheckpointOptions(settings=described["settings"]),
        }
        return build(**{**stored, **arguments})
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path}: its classifier cannot be built from what it says of it ({reason})") from error
