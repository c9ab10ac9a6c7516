"""A policy tied to a LightningModule: its network found, its optimizer checked, a checkpoint's policy compared."""

import hashlib
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from frostline.freezing.policy import FreezePolicy
from frostline.freezing.resolved import ResolvedPolicy
from frostline.freezing.stages import bare
from frostline.nearest import suggest


def find_network(module: nn.Module, attribute: str | None) -> nn.Module:
    """The network that a module holds under an attribute (`net`, `model.backbone`); None: the module itself.

    Raises:
        ValueError: there is no such attribute, or it is no module.
    """
    if attribute is None:
        return bare(module)
    try:
        network = operator.attrgetter(attribute)(module)
    except AttributeError:
        names = [name for name, _ in module.named_modules() if name and name.count(".") < 2]
        raise ValueError(
            f"{type(module).__name__} has no attribute `{attribute}`.{suggest(attribute, names)}"
        ) from None
    if not isinstance(network, nn.Module):
        raise ValueError(f"`{attribute}` of {type(module).__name__} is no module, but {network!r}.")
    return bare(network)


def read_against(
    policy: FreezePolicy, network: nn.Module, *, attribute: str | None, must_train: Sequence[str]
) -> ResolvedPolicy:
    """The policy read against a network; where that fails for want of an attribute, the message says which."""
    try:
        return policy.resolve(network, must_train=must_train)
    except ValueError as error:
        holders = [name for name, child in network.named_children() if next(child.parameters(), None) is not None]
        if attribute is None and len(holders) == 1:
            hint = f"The network is `{holders[0]}`: give FreezingSchedule attribute={holders[0]!r}."
            raise ValueError(f"{error} {hint}") from None
        raise


def selection(resolved: ResolvedPolicy) -> str:
    """A digest of what each phase selects: the same words can mean other parameters in another network."""
    chosen = [[sorted(phase.trainable), sorted(phase.held)] for phase in resolved.phases]
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()


def difference(state: Mapping[str, Any] | None, resolved: ResolvedPolicy) -> str | None:
    """What keeps a checkpoint from being resumed under a policy; None: nothing.

    Args:
        state: what `FreezingSchedule` wrote into the checkpoint.
    """
    if state is None:
        return "it was written without FreezingSchedule"
    if state["policy"] != resolved.policy.to_dict():
        theirs = ", ".join(phase["name"] for phase in state["policy"]["phases"])
        ours = ", ".join(phase.name for phase in resolved.policy.phases)
        return f"it was written under another policy (its phases: {theirs}; now: {ours})"
    if state["selection"] != selection(resolved):
        return "the same policy selects other parameters in this network"
    return None


def check_optimizer(network: nn.Module, resolved: ResolvedPolicy, optimizer: Optimizer) -> None:
    """Whether the optimizer holds everything that ever trains.

    Raises:
        ValueError: it lacks some of it, as when it was built with a filter on `requires_grad`.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    own = dict(network.named_parameters())
    missing = [name for name in own if name in resolved.trainable and id(own[name]) not in held]
    if missing:
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ValueError(
            f"The optimizer lacks `{missing[0]}`{others}, which the policy trains. Give it every parameter from the "
            "start (self.parameters(), without a filter on requires_grad) or frostline.optim.parameter_groups; what "
            "is frozen is skipped."
        )
