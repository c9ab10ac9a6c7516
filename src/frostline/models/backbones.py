"""Backbones: networks of torchvision and timm, and of the user's own, under their library's names.

Each comes with what the library says of it: its stages, its classifier, and the images that it was trained on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from frostline.nearest import suggest
from frostline.signatures import construct, find_class

TIMM = "timm/"
# Their classifiers beside the last one train on a loss of their own, and their weights take images scaled to [-1, 1].
INCEPTIONS = {"aux_logits": False, "init_weights": True, "transform_input": True}
# Children of torchvision's networks whose own children are stages.
CONTAINERS = ("features", "layers", "blocks", "trunk_output", "encoder", "encoder.layers", "classifier")
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The images that a network was trained on.

    Attributes:
        image_size: height and width in pixels.
        interpolation: by which they were resized.
        mean, std: for normalisation; None: ImageNet's.
        size_option: argument of the network's builder that takes the image size; None where it takes any.
    """

    image_size: int = 224
    interpolation: str = "bilinear"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size_option: str | None = None

    def options(self, image_size: int) -> dict[str, Any]:
        """Arguments of the builder for images of this size."""
        if self.size_option is None:
            return {}
        return {self.size_option: (image_size, image_size) if self.size_option == "input_size" else image_size}


def inputs_of(name: str | None) -> Inputs:
    """The images that a network of this name was trained on; of a network of the user's own, those of ImageNet.

    Raises:
        ValueError: an unknown name; timm is not installed.
    """
    if name is None:
        return Inputs()
    if name.startswith(TIMM):
        config = timm_with(name).get_pretrained_cfg(name.removeprefix(TIMM))
        return Inputs(
            image_size=config.input_size[-1],
            interpolation=config.interpolation,
            mean=config.mean,
            std=config.std,
            size_option="img_size" if config.fixed_input_size else None,
        )
    from torchvision import models

    _torchvision_builder(name)
    preset = models.get_model_weights(name).DEFAULT.transforms()
    option = "image_size" if name.startswith("vit_") else "input_size" if name.startswith("maxvit") else None
    return Inputs(image_size=preset.crop_size[0], interpolation=preset.interpolation.value, size_option=option)


def build_backbone(config: Mapping[str, Any]) -> nn.Module:
    """A network with random weights.

    `config` is `{"name": "resnet18", ...}` or `{"name": "timm/vit_tiny_patch16_224", ...}`, where further keys go to
    the library's builder, or `{"_target_": "package.Class", ...}` for a network of the user's own.

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
    name = config["name"]
    if "weights" in options or "pretrained" in options:  # which would be downloaded, from a checkpoint's word alone
        raise ValueError("weights: goes to `build_network(weights=…)`, not into `model`")
    try:
        if name.startswith(TIMM):
            network = timm_with(name).create_model(name.removeprefix(TIMM), **options)
        else:
            inception = INCEPTIONS if name in ("googlenet", "inception_v3") else {}
            network = construct(_torchvision_builder(name), {"weights": None, **inception, **options}, what="model")
    except (AssertionError, RuntimeError, TypeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ValueError(f"model: `{name}` cannot be built with {given}: {error}") from error
    if not _is_residual(network):
        network.library_stages = _stages(network)
    built: nn.Module = network
    return built


def classifier_of(network: nn.Module) -> tuple[str, ...]:
    """The name of the module that gives the logits, or the names where a network has several.

    Raises:
        ValueError: there is none.
    """
    named = getattr(network, "pretrained_cfg", {}).get("classifier")  # timm's
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    if isinstance(getattr(network, "fc", None), nn.Module):
        return ("fc",)
    found = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not found:
        raise ValueError("The network holds no linear layer, so that its head cannot be replaced.")
    return (found[-1],)


def replace_classifier(
    network: nn.Module, names: Sequence[str], *, classes: int, build: Callable[..., nn.Module] | None = None
) -> None:
    """Put new classifiers in the place of those of these names.

    Args:
        build: `features` and `classes` -> a new one; None: a linear layer, as the library builds it.

    Raises:
        ValueError: the network's classifier holds no linear layer to read its size from.
    """
    reset: Any = getattr(network, "reset_classifier", None)  # timm's
    if reset is not None:
        reset(classes)
        if build is None:
            return
    for name in names:
        last = last_layer(network.get_submodule(name), first=True)
        if isinstance(last, nn.Conv2d):
            if build is not None:
                raise ValueError("head: this network classifies by a convolution. Use head=linear, without dropout")
            network.set_submodule(name, nn.Conv2d(last.in_channels, classes, kernel_size=1))
        else:
            features = last.in_features
            made = nn.Linear(features, classes) if build is None else build(features=features, classes=classes)
            network.set_submodule(name, made)


def last_layer(classifier: nn.Module, *, first: bool = False) -> nn.Linear | nn.Conv2d:
    """The last linear layer or convolution in a classifier; the first one, where that is asked for.

    Raises:
        ValueError: there is none.
    """
    layers = [module for module in classifier.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError("The network's classifier holds no linear layer, so the size of a new head cannot be read.")
    return layers[0 if first else -1]


def timm_with(name: str) -> Any:
    """timm, if it knows the name."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"model: `{name}` needs timm: pip install 'frostline[timm]'") from error
    plain = name.removeprefix(TIMM)
    if not timm.is_model(plain.partition(".")[0]) or (
        "." in plain and plain not in timm.list_pretrained(f"{plain.partition('.')[0]}.*")
    ):
        choices = timm.list_pretrained() if "." in plain else timm.list_models()
        raise ValueError(f"model: timm has no network `{plain}`.{suggest(plain, choices)}")
    return timm


def _torchvision_builder(name: str) -> Any:
    from torchvision import models  # 2 s of imports, needed only here

    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(
            f"model: unknown network `{name}`.{suggest(name, names)} The choices are: {', '.join(names)}; and "
            "timm/NAME for one of timm"
        )
    return models.get_model_builder(name)


def _is_residual(network: nn.Module) -> bool:
    return all(hasattr(network, name) for name in ("conv1", "bn1", "relu", "layer1", "layer4", "avgpool", "fc"))


def _stages(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Stage name -> names of the modules in it: `stem`, then each under the name of its last module, then `head`.

    A stage ends where timm's `feature_info` says so; in torchvision, with each child that has weights, a normalisation
    excepted, which belongs to the stage before it.
    """
    classifier = classifier_of(network)
    modules = dict(network.named_modules())
    listed = [str(info["module"]) for info in getattr(network, "feature_info", ())]
    described = [name for name in listed if name in modules]
    ends = described
    opened = (*classifier, *ends) if ends else (*classifier, *(f"{name}." for name in CONTAINERS))
    parts = list(_parts(network, opened))
    if not ends:
        ends = [name for name in parts if name in modules and _has_weights(modules[name])]
        ends = [name for name in ends if not isinstance(modules[name], NORMS)]
    stages: dict[str, tuple[str, ...]] = {}
    loose = tuple(name for name in parts if name not in modules)  # class tokens and positions
    waiting: tuple[str, ...] = ()
    parts = [name for name in parts if name in modules]
    start = min(parts.index(name) for name in classifier)
    for name in parts[:start]:
        waiting += (name,)
        if name in ends:
            if not stages:
                inside = [part for part in waiting if _has_weights(modules[part])]
                stem = waiting[:-1] if len(inside) > 1 and name in inside else waiting
                stages["stem"], waiting = (*loose, *stem), waiting[len(stem) :]
            if waiting:
                stages[name], waiting = waiting, ()
        elif stages and not described:  # what has no weights, and normalisations
            last = next(reversed(stages))
            stages[last], waiting = (*stages[last], *waiting), ()
    last = next(reversed(stages), "stem")
    stages[last] = (*stages.get(last, loose), *waiting)
    return {**stages, "head": tuple(parts[start:])}


def _parts(module: nn.Module, opened: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Names of a network's parameters and modules, outermost first; in place of a module that holds one of `opened`,
    those in it."""
    yield from (prefix + name for name, _ in module.named_parameters(recurse=False))
    for name, child in module.named_children():
        inside = f"{prefix}{name}."
        if next(child.children(), None) is not None and any(other.startswith(inside) for other in opened):
            yield from _parts(child, opened, inside)
        else:
            yield prefix + name


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
