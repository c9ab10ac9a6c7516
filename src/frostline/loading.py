"""Between a classifier and its checkpoint: names of tensors, and a classifier built from a file alone."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from frostline.checkpoint import CHECKPOINT_FORMAT, CHECKPOINT_KEY, read_checkpoint
from frostline.data.spec import DataSpec
from frostline.freezing.policy import FreezePolicy
from frostline.losses import build_loss
from frostline.models.network import build_network
from frostline.models.saved_file import of_this_version
from frostline.options import CheckpointOptions, TrainingOptions
from frostline.trust import check_trust

T = TypeVar("T")
PREFIX = "network."  # of the network's names in the classifier


def network_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a classifier's checkpoint holds of its state dict: the network's tensors, under the network's names."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def description(
    *,
    spec: DataSpec,
    policy: FreezePolicy,
    loss: nn.Module,
    options: CheckpointOptions,
    engine: Mapping[str, Any],
    calibration: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Values from which `from_checkpoint` builds the classifier again."""
    return {
        "format": CHECKPOINT_FORMAT,
        "recipe": None if options.recipe is None else dict(options.recipe),
        "images": spec.as_dict(),
        "loss": getattr(loss, "recipe", None),
        "policy": policy.to_dict(),
        "engine": dict(engine),
        "settings": dict(options.settings),
        **({} if calibration is None else {"calibration": dict(calibration)}),
    }


def module_state(state: Mapping[str, Tensor], classifier: nn.Module) -> dict[str, Tensor]:
    """`network_state` reversed, for Lightning: what the classifier keeps outside the network stays as it is."""
    outside = {name: tensor for name, tensor in classifier.state_dict().items() if not name.startswith(PREFIX)}
    return of_this_version({**outside, **{PREFIX + name: tensor for name, tensor in state.items()}}, classifier)


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
        arguments: these take the place of the checkpoint's, also a loss within `training`, and recipe and settings
            within `checkpoint`; with a `network`, its recipe is not read.
        strict: the network must have all of the checkpoint's tensors, and no others.
        trust_checkpoint: import the classes of your own model or head that the file names, which runs their code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is corrupt or no frostline checkpoint; it does not say how its network is built, and no
            `network` is given; it names classes to be imported.
    """
    checkpoint = read_checkpoint(path)
    described = checkpoint[CHECKPOINT_KEY]
    recipe, spec = described["recipe"], arguments.get("data_spec") or DataSpec.from_dict(described["images"])
    training = arguments.get("training", TrainingOptions())
    options = arguments.get("checkpoint", CheckpointOptions())
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
            else build_network(model=recipe["model"], head=recipe["head"], classes=len(spec.classes))[0]
        )
        network.load_state_dict(of_this_version(checkpoint["state_dict"], network), strict=strict)
        if training.loss is None and described.get("loss"):
            training = replace(training, loss=build_loss(**described["loss"]))
        stored = {
            "network": network,
            "data_spec": spec,
            "policy": arguments.get("policy") or FreezePolicy.from_dict(described["policy"]),
            "training": training,
            "checkpoint": replace(
                options,
                recipe=options.recipe or recipe,
                settings=options.settings or described["settings"],
                calibration=options.calibration or described.get("calibration"),
                engine=options.engine or described.get("engine") or {"name": "torch"},
            ),
        }
        return build(**{**arguments, **stored})
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path}: its classifier cannot be built from what it says of it ({reason})") from error
