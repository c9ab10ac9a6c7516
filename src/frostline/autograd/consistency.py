"""Compare the parameters in the graph, those with `requires_grad` and those in the optimizer."""

import torch
from torch import nn

from frostline.autograd.graph import Graph


def inconsistencies(graph: Graph, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """One sentence for each way in which three sets differ; none where they agree.

    The sets: the graph's leaves; the parameters with `requires_grad`; those of them that the optimizer holds. An
    optimizer may hold frozen parameters besides, as it does when they are to train in a later phase.
    """
    parameters = dict(network.named_parameters())
    in_optimizer = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
    stepped = {name for name in trainable if id(parameters[name]) in in_optimizer}
    own = {id(parameter) for parameter in parameters.values()}
    sentences = []
    for names, what in (
        (trainable - graph.parameters, "require a gradient, but the loss does not depend on them"),
        (graph.parameters - trainable, "are leaves of the graph, but no longer require a gradient"),
        (trainable - stepped, "require a gradient, but the optimizer does not hold them"),
    ):
        if names:
            sentences.append(f"{len(names)} of {len(parameters)} parameters {what}: {_listed(sorted(names))}.")
    if foreign := len(in_optimizer - own):
        sentences.append(f"The optimizer holds tensors that are no parameters of the network ({foreign} of them).")
    return sentences


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
