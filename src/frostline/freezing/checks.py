"""Checks of a fit: fingerprints of frozen tensors, gradients, the optimizer, a checkpoint."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor, nn
from torch.optim import Optimizer

from frostline.freezing.apply import frozen_tensors
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.freezing.selectors import bare

if TYPE_CHECKING:
    import lightning.pytorch as pl

log = logging.getLogger("frostline.freezing")

# Of `Audit.state_dict`: fingerprints of another kind cannot be compared.
KIND = "xxh3_128"


class FrozenTensorChanged(RuntimeError):  # noqa: N818 - named for what happened
    """A tensor that a phase freezes has changed."""


class GradientCheckFailed(RuntimeError):  # noqa: N818 - named for what happened
    """The gradients are not what the phase requires."""


def fingerprint(tensor: Tensor) -> int:
    """A 128-bit fingerprint (XXH3) of a tensor's type, shape and bytes, the same on every device.

    Bytes and no numbers: 0.0 and -0.0 differ, and so do two kinds of NaN. A tensor on a GPU is copied to the host.
    """
    if hasattr(tensor, "to_local"):  # a DTensor: this rank's shard
        tensor = tensor.to_local()
    digest = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    data: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest.update(data)
    return digest.intdigest()


def is_sharded(network: nn.Module) -> bool:
    """Whether ranks hold different parts of the parameters (FSDP2), so that their fingerprints differ."""
    return any(hasattr(parameter, "to_local") for parameter in network.parameters())


def fingerprints(network: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The fingerprints of the named parameters and buffers that exist: all of a ResNet-18 in 2 ms on one core."""
    network = bare(network)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: fingerprint(tensors[name]) for name in names if name in tensors}


class Audit:
    """Fingerprints a phase's frozen tensors and records each comparison.

    entries: one per comparison, in plain values: phase, reason, step, tensors compared, names of those that changed.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._marks: dict[str, int] = {}
        self._copies: dict[str, Tensor] = {}

    @property
    def has_begun(self) -> bool:
        """Whether there are fingerprints to compare with; a checkpoint may have some of another kind."""
        return bool(self._marks)

    def begin(self, network: nn.Module, phase: ResolvedPhase) -> None:
        """Take the fingerprints of the phase's frozen tensors, which must not change from now on."""
        self._marks = fingerprints(network, frozen_tensors(network, phase))
        self.copy_buffers(network)

    def copy_buffers(self, network: nn.Module) -> None:
        """Copy the frozen statistics, a few thousand numbers: weight averaging resets those of all batch norms."""
        self._copies = {name: entry.clone() for name, entry in network.named_buffers() if name in self._marks}

    def restore_buffers(self, network: nn.Module) -> None:
        """Write the copied statistics back."""
        own = dict(network.named_buffers())
        for name, copy in self._copies.items():
            own[name].copy_(copy)

    def compare(
        self,
        network: nn.Module,
        resolved: ResolvedPolicy,
        phase: ResolvedPhase,
        *,
        reason: str,
        step: int,
        averaged: bool = False,
        record: bool = True,
    ) -> list[str]:
        """Names of the tensors that changed since `begin`, or are missing.

        Args:
            averaged: the weights may be averages over the run, so that tensors which an earlier phase trained are no
                longer the phase's; a tensor that never trained is its own average, to the bit.
            record: add an entry; False: only if a tensor changed.
        """
        now = fingerprints(network, list(self._marks))
        changed = [name for name, mark in self._marks.items() if now.get(name) != mark]
        if averaged:
            never = set(changed).intersection(
                *(frozen_tensors(network, entry) for entry in resolved.phases[: phase.index])
            )
            changed = [name for name in changed if name in never]
        if record or changed:
            entry = {"phase": phase.name, "reason": reason, "step": step, "tensors": len(self._marks), "moved": changed}
            self.entries.append(entry)
        return changed

    def verdict(self) -> dict[str, Any]:
        """Whether every comparison found all tensors unchanged, in plain values."""
        return {
            "held": bool(self.entries) and not any(entry["moved"] for entry in self.entries),
            "tensors_compared": sum(entry["tensors"] for entry in self.entries),
            "audits": [dict(entry) for entry in self.entries],
        }

    def state_dict(self) -> dict[str, Any]:
        return {"kind": KIND, "marks": self._marks, "entries": self.entries}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._marks = dict(state["marks"]) if state.get("kind") == KIND else {}
        self.entries = list(state["entries"])


def check_gradients(network: nn.Module, phase: ResolvedPhase, *, allow_unused: Collection[str] = ()) -> None:
    """Check the gradients of a finished (under DDP: reduced) backward: trainable parameters have one, frozen ones have
    none, and all ranks have the same.

    Every rank takes part and every rank raises, so that none waits for another for ever.

    Args:
        allow_unused: names of parameters that may have no gradient.

    Raises:
        GradientCheckFailed: the message names the parameters.
    """
    parameters = dict(bare(network).named_parameters())
    training = [name for name in parameters if name in phase.trainable]
    missing = [name for name in training if parameters[name].grad is None and name not in allow_unused]
    stray = [name for name, entry in parameters.items() if name not in phase.trainable and entry.grad is not None]
    unequal = [] if is_sharded(network) else _unequal(parameters, training)
    problems = []
    if missing:
        problems.append(
            f"{', '.join(missing)}: in training, but without a gradient after the backward. Either the loss does not "
            "depend on it (freeze it, or name it in `allow_unused`), or the path to it is cut (`no_grad`, `detach`)"
        )
    if stray:
        problems.append(f"{', '.join(stray)}: frozen, but with a gradient")
    if unequal:
        problems.append(f"{', '.join(unequal)}: the ranks have different gradients, so their weights would diverge")
    if _on_any_rank(bool(problems), next(iter(parameters.values())).device):
        found = "; ".join(problems) or "another rank found a problem and names it"
        raise GradientCheckFailed(f"Phase `{phase.name}`: {found}.")


def check_optimizer(network: nn.Module, resolved: ResolvedPolicy, optimizer: Optimizer) -> None:
    """Check that the optimizer has every parameter that ever trains.

    Raises:
        ValueError: it lacks some, as when it was built with a filter on `requires_grad`.
    """
    there = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    own = dict(network.named_parameters())
    missing = [name for name in own if name in resolved.trainable and id(own[name]) not in there]
    if missing:
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ValueError(
            f"The optimizer lacks `{missing[0]}`{others}, which the policy trains. Give it every parameter from the "
            "start (self.parameters(), without a filter on requires_grad) or frostline.optim.parameter_groups; frozen "
            "parameters are skipped."
        )


def check_moments(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Check that a checkpoint's moments have their parameters' shapes: torch would read past their end.

    Raises:
        ValueError: a moment has another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = [key for group in state["param_groups"] for key in group["params"]]
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim") or kind.__name__ in ("Adafactor", "LBFGS"):
        return  # moments of any shape
    if len(parameters) != len(keys):
        return  # which torch refuses
    for index, (parameter, key) in enumerate(zip(parameters, keys, strict=True)):
        for name, moment in state["state"].get(key, {}).items():
            if isinstance(moment, Tensor) and moment.numel() > 1 and moment.shape != parameter.shape:
                raise ValueError(
                    f"The checkpoint's optimizer has a `{name}` of shape {tuple(moment.shape)} for parameter {index}, "
                    f"which has shape {tuple(parameter.shape)}. Resume from another checkpoint, or start a new run "
                    "from its weights."
                )


def check_unchanged(trainer: "pl.Trainer", phase: ResolvedPhase, changed: Sequence[str], *, reason: str) -> None:
    """Stop every rank if a frozen tensor has changed on any.

    Raises:
        FrozenTensorChanged: the message names the tensors.
    """
    if trainer.strategy.reduce_boolean_decision(bool(changed), all=False):
        named = ", ".join(changed) or "on another rank, which names it"
        raise FrozenTensorChanged(
            f"Frozen tensors changed since phase `{phase.name}` began ({reason}, step {trainer.global_step}): {named}. "
            "They were modified in place, by another optimizer, or by a batch norm in training mode. Load weights "
            "before the fit, or in `setup`."
        )


def selection_digest(resolved: ResolvedPolicy) -> str:
    """A digest of the parameters of each phase: the same selectors can match others in another network."""
    chosen = [[sorted(phase.trainable), sorted(phase.eval_modules)] for phase in resolved.phases]
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()


def policy_difference(state: Mapping[str, Any] | None, resolved: ResolvedPolicy) -> str | None:
    """Why a checkpoint cannot be resumed under a policy; None: it can.

    Args:
        state: of the `FreezingSchedule` that wrote the checkpoint.
    """
    if state is None:
        return "it was written without FreezingSchedule"
    if state["policy"] != resolved.policy.to_dict():
        theirs = ", ".join(phase["name"] for phase in state["policy"]["phases"])
        ours = ", ".join(phase.name for phase in resolved.phases)
        return f"it was written under another policy (its phases: {theirs}; now: {ours})"
    if state["selection"] != selection_digest(resolved):
        return "the same policy selects other parameters in this network"
    return None


def prepare_restart(trainer: "pl.Trainer", checkpoint: dict[str, Any], reason: str, *, allowed: bool) -> None:
    """Remove from a checkpoint of another policy the groups and moments of its optimizer, and its schedulers.

    Args:
        reason: of `policy_difference`.

    Raises:
        ValueError: a restart is not allowed, or the run ends where the checkpoint was written.
    """
    if not allowed:
        raise ValueError(
            f"The checkpoint cannot be resumed under this freezing policy: {reason}. Resume under the policy it was "
            "written with, start a new run from its weights, or use on_mismatch='restart'."
        )
    step, total_steps = checkpoint["global_step"], trainer.estimated_stepping_batches
    if step >= total_steps:
        raise ValueError(
            f"Nothing is left to train under the other policy: the checkpoint is of step {step}, and the run has "
            f"{total_steps}. Train more epochs (max_epochs), or start a new run from its weights."
        )
    log.warning("The first phase begins again, with a fresh optimizer and scheduler: %s.", reason)
    # Lightning restores as many states as there are.
    checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []


def _unequal(parameters: dict[str, nn.Parameter], names: list[str]) -> list[str]:
    """Names of the gradients that differ between ranks."""
    if not _distributed():
        return []
    gradients = [parameters[name].grad for name in names]
    marks = [0 if gradient is None else fingerprint(gradient) >> 65 for gradient in gradients]  # 63 bits of it
    own = torch.tensor(marks, dtype=torch.int64, device=next(iter(parameters.values())).device)
    all_ranks = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(all_ranks, own)
    differs = torch.stack([entry != all_ranks[0] for entry in all_ranks]).any(dim=0).tolist()
    return [name for name, differ in zip(names, differs, strict=True) if differ]


def _on_any_rank(problem: bool, device: torch.device) -> bool:
    if not _distributed():
        return problem
    flag = torch.tensor(int(problem), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
