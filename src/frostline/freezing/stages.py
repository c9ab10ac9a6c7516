"""Stages: a view on a network that names its parts in the order in which an image passes them.

A stage is a name and the module names that belong to it, never module references: converting to SyncBatchNorm makes
new modules under the old names.
"""

from collections.abc import Mapping, Sequence

from torch import nn

RESNET_STAGES: Mapping[str, tuple[str, ...]] = {
    "stem": ("conv1", "bn1", "relu", "maxpool"),
    "layer1": ("layer1",),
    "layer2": ("layer2",),
    "layer3": ("layer3",),
    "layer4": ("layer4",),
    "head": ("avgpool", "fc"),
}


def stages_of(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """The network's stages in execution order: stage name -> names of the modules in it.

    A network names its own stages by an attribute `stages` (a mapping of the same form); one built like a torchvision
    ResNet has stem, layer1 … layer4, head; any other has one stage for each direct child that holds parameters.

    Raises:
        ValueError: a named module does not exist, or a parameter lies in no stage or in two.
    """
    named: Mapping[str, Sequence[str]] | None = getattr(network, "stages", None)
    children = {name for name, _ in network.named_children()}
    if named is None and set().union(*RESNET_STAGES.values()) <= children:
        named = RESNET_STAGES
    if named is None:
        named = {
            name: (name,) for name, child in network.named_children() if next(child.parameters(), None) is not None
        }
        loose = [name for name, _ in network.named_parameters(recurse=False)]
        if loose:
            named = {"parameters": tuple(loose), **named}
    view = {stage: tuple(names) for stage, names in named.items()}
    known = {name for name, _ in network.named_modules()} | {name for name, _ in network.named_parameters()}
    for stage, names in view.items():
        for name in names:
            if name not in known:
                raise ValueError(f"Stage `{stage}` names `{name}`, which the network does not have.")
    for parameter, _ in network.named_parameters():
        homes = [stage for stage in view if in_stage(parameter, view[stage])]
        if len(homes) != 1:
            where = "no stage" if not homes else f"more than one stage ({', '.join(homes)})"
            raise ValueError(f"Parameter `{parameter}` lies in {where}; every parameter belongs to exactly one.")
    return view


def bare(network: nn.Module) -> nn.Module:
    """The network itself, out of the wrapper that `torch.compile(network)` puts around it, which renames everything."""
    while isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
        network = inner
    return network


def in_stage(name: str, modules: Sequence[str]) -> bool:
    """Whether a parameter, buffer or module name lies in a stage given by its module names."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def stage_of(name: str, stages: Mapping[str, Sequence[str]]) -> str:
    """The stage in which a parameter, buffer or module name lies.

    Raises:
        KeyError: it lies in none.
    """
    for stage, modules in stages.items():
        if in_stage(name, modules):
            return stage
    raise KeyError(name)
