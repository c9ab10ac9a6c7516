"""Selectors: the words with which a policy names parameters.

all             every parameter
layer4          a stage (see `stages.py`); never a prefix, so `layer1` is not `layer10`
from:layer3     a stage and all that come after it
layer4.1.conv1  a module or a parameter, by its full name
layer3.*.bias   a glob on parameter names, in which `*` also crosses dots
@BatchNorm2d    all modules of a class or of its subclasses, with what is inside them
!layer4.0       takes away again; in a list, the later word wins
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from frostline.freezing.stages import in_stage
from frostline.nearest import suggest

EVERY = ("all", "*")


def select(network: nn.Module, selectors: Sequence[str], *, stages: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The names of the parameters that a list of selectors names, read from left to right.

    A parameter that is shared under several names appears under every name that matches.

    Raises:
        ValueError: a selector matches nothing, or `!…` takes away what is not there.
    """
    chosen: set[str] = set()
    for selector in selectors:
        if selector.startswith("!"):
            taken = match(network, selector[1:], stages=stages)
            if not chosen & taken:
                raise ValueError(
                    f"`{selector}` takes nothing away from what stands before it in [{', '.join(selectors)}]. "
                    f"A selection starts empty: write [all, '{selector}']."
                )
            chosen -= taken
        else:
            chosen |= match(network, selector, stages=stages)
    return frozenset(chosen)


def match(network: nn.Module, selector: str, *, stages: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The names of the parameters that one selector (without `!`) names.

    Raises:
        ValueError: it matches nothing; the message lists the stages and what is spelled alike.
    """
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    if selector in EVERY:
        found = names
    elif selector.startswith("from:"):
        order = list(stages)
        if selector[5:] not in order:
            raise ValueError(_nothing(network, selector, stages))
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
        raise ValueError(_nothing(network, selector, stages))
    return frozenset(found)


def class_names(module: nn.Module) -> set[str]:
    """The names `@…` answers to: the module's class and the classes it derives from, without `Module` itself.

    A SyncBatchNorm keeps answering to the name it had before the conversion, so that a policy means the same after it.
    """
    # `@BatchNorm` for torch's `_BatchNorm`, which all dimensions derive from.
    names = {cls.__name__.lstrip("_") for cls in type(module).__mro__} - {"Module", "object"}
    if "SyncBatchNorm" in names:
        names |= {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"}
    return names


def _nothing(network: nn.Module, selector: str, stages: Mapping[str, Sequence[str]]) -> str:
    if selector in ("none", "nothing", ""):
        return (
            f"`{selector}` would leave nothing to train, and nothing to learn. Name what trains, for instance `head`; "
            f"the stages are {', '.join(stages)}."
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
