"""Stages and selectors: the names with which a policy selects parameters.

A stage is a name and the module names that belong to it, in the order in which an image passes them. A selector is:

all             every parameter
layer4          a stage; never a prefix, so `layer1` is not `layer10`
from:layer3     a stage and all that come after it
layer4.1.conv1  a module or a parameter, by its full name
layer3.*.bias   a glob on parameter names, in which `*` also crosses dots
@BatchNorm2d    all modules of a class or of its subclasses, with everything inside them
!layer4.0       removes again; in a list, the later selector wins

Names, never module references: converting to SyncBatchNorm makes new modules under the old names.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from frostline.nearest import suggest

RESNET_STAGES: Mapping[str, tuple[str, ...]] = {
    "stem": ("conv1", "bn1", "relu", "maxpool"),
    "layer1": ("layer1",),
    "layer2": ("layer2",),
    "layer3": ("layer3",),
    "layer4": ("layer4",),
    "head": ("avgpool", "fc"),
}
EVERY = ("all", "*")


def stages_of(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """The network's stages in execution order: stage name -> names of the modules in it.

    A network names its own stages by an attribute `stages` (a mapping of the same form); one built like a torchvision
    ResNet has stem, layer1 … layer4, head; any other has one stage for each direct child that holds parameters.

    Raises:
        ValueError: a named module does not exist, or a parameter lies in no stage or in two.
    """
    # `stages` is a module in many networks; `library_stages` are those of torchvision and timm.
    given = (getattr(network, name, None) for name in ("stages", "library_stages"))
    named: Mapping[str, Sequence[str]] | None = next((value for value in given if isinstance(value, Mapping)), None)
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
    stages = {stage: tuple(names) for stage, names in named.items()}
    known = {name for name, _ in network.named_modules()} | {name for name, _ in network.named_parameters()}
    for stage, names in stages.items():
        for name in names:
            if name not in known:
                raise ValueError(f"Stage `{stage}` names `{name}`, which the network does not have.")
    for parameter, _ in network.named_parameters():
        homes = [stage for stage in stages if in_stage(parameter, stages[stage])]
        if len(homes) != 1:
            where = "no stage" if not homes else f"more than one stage ({', '.join(homes)})"
            raise ValueError(f"Parameter `{parameter}` lies in {where}; every parameter belongs to exactly one.")
    return stages


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


def select(network: nn.Module, selectors: Sequence[str], *, stages: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The names of the parameters that a list of selectors selects, read from left to right.

    A parameter that is shared under several names appears under every name that matches.

    Raises:
        ValueError: a selector matches nothing, or `!…` removes nothing.
    """
    chosen: set[str] = set()
    for selector in selectors:
        if selector.startswith("!"):
            removed = match(network, selector[1:], stages=stages)
            if not chosen & removed:
                raise ValueError(
                    f"`{selector}` removes nothing from the selectors before it in [{', '.join(selectors)}]. "
                    f"A selection starts empty: write [all, '{selector}']."
                )
            chosen -= removed
        else:
            chosen |= match(network, selector, stages=stages)
    return frozenset(chosen)


def match(network: nn.Module, selector: str, *, stages: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The names of the parameters that one selector (without `!`) selects.

    Raises:
        ValueError: it matches nothing; the message lists the stages and similar names.
    """
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    if selector in EVERY:
        found = names
    elif selector.startswith("from:"):
        order = list(stages)
        if selector[5:] not in order:
            raise ValueError(_no_match(network, selector, stages))
        chosen = [module for stage in order[order.index(selector[5:]) :] for module in stages[stage]]
        found = [name for name in names if in_stage(name, chosen)]
    elif selector.startswith("@"):
        roots = [name for name, module in network.named_modules() if selector[1:] in class_names(module)]
        found = names if "" in roots else [name for name in names if in_stage(name, roots)]
    elif selector in stages:
        found = [name for name in names if in_stage(name, stages[selector])]
    elif any(sign in selector for sign in "*?["):
        found = [name for name in names if fnmatchcase(name, selector)]
    else:
        found = [name for name in names if in_stage(name, (selector,))]
    if not found:
        raise ValueError(_no_match(network, selector, stages))
    return frozenset(found)


def class_names(module: nn.Module) -> set[str]:
    """The names that `@…` matches: the module's class and its base classes, without `Module` itself.

    A SyncBatchNorm keeps the names from before the conversion, so that a policy means the same after it.
    """
    # `@BatchNorm` for torch's `_BatchNorm`, which all dimensions derive from.
    names = {cls.__name__.lstrip("_") for cls in type(module).__mro__} - {"Module", "object"}
    if "SyncBatchNorm" in names:
        names |= {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"}
    return names


def _no_match(network: nn.Module, selector: str, stages: Mapping[str, Sequence[str]]) -> str:
    if selector in ("none", "nothing", ""):
        return (
            f"`{selector}` would leave nothing to train. Name what trains, for instance `head`; the stages are "
            f"{', '.join(stages)}."
        )
    if selector.startswith("@"):
        types = {type(module).__name__ for module in network.modules() if next(module.parameters(), None) is not None}
        close = suggest(selector, (f"@{name}" for name in sorted(types)))
        return f"`{selector}` matches no module; with parameters there are {', '.join(sorted(types))}.{close}"
    words = [*stages, "all", *(f"from:{stage}" for stage in stages)]
    words += [name for name, _ in network.named_modules() if name]
    words += [name for name, _ in network.named_parameters()]
    return (
        f"`{selector}` matches no parameter. Stages: {', '.join(stages)}; or a module, a parameter, a glob like "
        f"`*.bias`, a class like `@BatchNorm2d`, `from:<stage>`, `all`.{suggest(selector, words)}"
    )
