"""Grad-CAM (Selvaraju et al., 2017, arXiv 1610.02391): where in an image a convolutional network finds a class."""

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from frostline.figures import styled
from frostline.modes import eval_mode


@dataclass(frozen=True, kw_only=True)
class LastMap:
    """The module that computes a network's last feature map, and the map's channels, height and width."""

    name: str
    shape: tuple[int, int, int]


def last_feature_map(network: nn.Module, image: Tensor) -> LastMap:
    """The last feature map with more than one place, found by a forward pass in eval mode.

    Args:
        image: (1, 3, height, width), as the network takes it.

    Raises:
        ValueError: there is none, or the network attends: its maps mix all places before the classifier.
    """
    found: list[LastMap] = []
    tokens: list[str] = []

    def look(name: str, output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 3:
            tokens.append(name)
        elif output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(LastMap(name=name, shape=(output.shape[1], output.shape[2], output.shape[3])))
            tokens.clear()

    hooks = [
        module.register_forward_hook(lambda *given, name=name: look(name, given[-1]))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with eval_mode(network), torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    attends = any("attention" in type(module).__name__.lower() for module in network.modules())
    if not found or tokens or attends:
        raise ValueError(
            "explain: Grad-CAM needs a convolutional network, whose last feature map leads to the classifier; this "
            f"{type(network).__name__} has none at {image.shape[-1]} pixels. Take a checkpoint of one, such as "
            "model=resnet18."
        )
    return found[-1]


def heat_map(network: nn.Module, images: Tensor, target: int, *, layer: str) -> Tensor:
    """Heat maps (n, height, width) of images (n, 3, height, width), from 0 to 1, for a class; also of frozen layers.

    Flags, gradients and statistics of the network are left as they were. 0 everywhere where nothing speaks for the
    class.

    Args:
        images: as the network takes them.
        layer: name of the module whose output is weighted; see `last_feature_map`.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    module = network.get_submodule(layer)
    with eval_mode(network), torch.enable_grad():
        # The images need a gradient, so that a frozen layer's output has one.
        maps = LayerGradCam(network, module).attribute(
            images.clone().requires_grad_(True), target=target, relu_attributions=True
        )
    maps = LayerAttribution.interpolate(maps.detach().float(), tuple(images.shape[-2:]), "bilinear")[:, 0]
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest, 0.0)


@styled
def draw_heat_map(image: Tensor, heat: Tensor, *, title: str) -> Figure:
    """An image (3, height, width), uint8 or floats in [0, 1], beside the same under its heat map (height, width)."""
    shown = image.permute(1, 2, 0).cpu().numpy()
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.imshow(shown)
        axes.set_axis_off()
    heated = right.imshow(heat.cpu().numpy(), cmap="inferno", alpha=0.55, vmin=0, vmax=1)
    figure.colorbar(heated, ax=right, label="evidence for the class, of the highest", shrink=0.8)
    figure.suptitle(title, fontsize=11, parse_math=False)  # a file's name may hold dollar signs
    return figure
