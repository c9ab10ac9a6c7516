"""A classifier in one phase of its policy, as a training run with the same overrides, or a checkpoint, has it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from lightning import seed_everything

from frostline.checkpoint import CHECKPOINT_KEY, read_checkpoint
from frostline.classifier import ImageClassifier
from frostline.commands.build import build_classifier, build_data
from frostline.commands.defaults import without_auto
from frostline.commands.trainer import torch_device
from frostline.commands.words import typed_keys
from frostline.config.commands import PhaseConfig, stored_settings
from frostline.config.model import OwnBackbone
from frostline.config.secret_values import refuse_hidden
from frostline.config.validation import stored_problems
from frostline.data.datamodule import ImageDataModule
from frostline.freezing.apply import apply_phase
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.trust import check_trust, reading_only, without_keys

# What a checkpoint fixes; the other groups may be changed on the command line.
FIXED = ("model", "head")


@dataclass(frozen=True, kw_only=True)
class PhaseSetup:
    """A classifier in training mode on its device, in a phase, with its data and the config that describes it."""

    classifier: ImageClassifier
    data: ImageDataModule
    phase: ResolvedPhase
    config: PhaseConfig

    @property
    def title(self) -> str:
        """ "resnet18, freeze=gradual_unfreezing, phase layer4"."""
        model, phases = self.config.model, self.classifier.resolved.phases
        phase = f", phase {self.phase.name}" if len(phases) > 1 else ""
        name = model.target if isinstance(model, OwnBackbone) else model.name
        return f"{name}, freeze={self.config.freeze.name}{phase}"

    def optimizer(self) -> torch.optim.Optimizer:
        """The run's optimizer, at the phase's learning rates and without a schedule."""
        optimizer = self.classifier.build_optimizer()
        names = {id(parameter): name for name, parameter in self.classifier.network.named_parameters()}
        for group in optimizer.param_groups:
            # All parameters of a group train at one rate, or not at all, in each phase.
            group["lr"] *= self.phase.lr.get(names[id(group["params"][0])], 1.0)
        return optimizer


def phase_index(resolved: ResolvedPolicy, name: str) -> int:
    """The place of a phase in its policy.

    Raises:
        ValueError: there is no such phase.
    """
    names = [phase.name for phase in resolved.phases]
    if name not in names:
        raise ValueError(f"phase={name}: the policy has no such phase. It has: {', '.join(names)}.")
    return names.index(name)


def build_at_phase(config: PhaseConfig, overrides: Sequence[str]) -> PhaseSetup:
    """Build what the config describes; with a checkpoint, what the checkpoint's config and the overrides do.

    Raises:
        ValueError: a part of the config does not fit another, the checkpoint says nothing of its config, an override
            contradicts the checkpoint, or the policy has no such phase.
        FileNotFoundError: no such checkpoint.
    """
    reached = 0
    if config.checkpoint is not None:
        stored = read_checkpoint(config.checkpoint)
        reached = _phase_of(stored)
        config = _with_checkpoint(config, stored[CHECKPOINT_KEY]["settings"], overrides)
    # A compiled network's graph is one opaque node.
    trainer = config.trainer.model_copy(update={"compile": False})
    speed = config.speed.model_copy(update={"fused_optimizer": False})
    config = config.model_copy(update={"trainer": trainer, "speed": speed})
    seed_everything(config.seed, verbose=False)
    chosen = without_auto(config)
    config = chosen.config
    data = build_data(config.data, config.augment, seed=config.seed, model=config.model, built=chosen.source)
    classifier, _ = build_classifier(config, data)
    phases = classifier.resolved.phases
    if config.phase is not None:
        reached = phase_index(classifier.resolved, config.phase)
    elif reached >= len(phases):
        reached = 0
    classifier.to(torch_device(config.device)).train()
    apply_phase(classifier.network, phases[reached])
    return PhaseSetup(classifier=classifier, data=data, phase=phases[reached], config=config)


def _with_checkpoint(config: PhaseConfig, stored: Mapping[str, Any], overrides: Sequence[str]) -> PhaseConfig:
    """The checkpoint's own config, with what was typed on the command line laid over it."""
    checkpoint, settings = str(config.checkpoint), config.as_dict()
    if not stored:
        raise ValueError(f"{checkpoint}: says nothing of the config that it was trained with.")
    check_stored(checkpoint, stored)
    merged = settings | deepcopy(stored_settings(type(config), stored))
    for override in overrides:
        *parents, last = override.partition("=")[0].lstrip("+~").partition("@")[0].split(".")
        group = (*parents, last)[0]
        if group in FIXED:
            raise ValueError(f"{override}: the checkpoint says what the {group} is; leave one of the two out.")
        if group not in stored:
            continue
        source: Any = settings
        target: Any = merged
        for parent in parents:
            source, target = source[parent], target.get(parent) if isinstance(target, dict) else None
        if not isinstance(target, dict) or (parents and last not in target):
            raise ValueError(f"{override}: the checkpoint's {group} has no such key; choose an option as {group}=….")
        target[last] = source[last]
    refuse_hidden(merged, where=checkpoint)
    if not config.trust_checkpoint:
        merged["data"] |= unobeyed(checkpoint, without_keys(merged, typed_keys(overrides)))
    merged["model"] = {**merged["model"], "weights": checkpoint}
    merged["device"] = settings["device"]
    return type(config).model_validate(merged)


def check_stored(checkpoint: str, sections: Mapping[str, Any]) -> None:
    """Refuse a checkpoint's config whose values are of other types than a training's, before they are used.

    Raises:
        ValueError: they are; names the file and the keys.
    """
    if problems := stored_problems(sections):
        raise ValueError(f"{checkpoint}: the config in it is damaged or another program's. {' '.join(problems)}")


def unobeyed(checkpoint: str, sections: Mapping[str, Any]) -> dict[str, Any]:
    """The values with which a checkpoint's data section only reads; a line is printed for each that is another.

    Args:
        sections: of the checkpoint's config, what is not the user's own word.

    Raises:
        ValueError: they name classes to import, or addresses of data.
    """
    check_trust(checkpoint, sections)
    quiet = reading_only(sections.get("data") or {})
    for key in quiet:
        print(f"note: data.{key} of the checkpoint is left out, as it writes files; trust_checkpoint=true takes it")
    return quiet


def _phase_of(checkpoint: Mapping[str, Any]) -> int:
    """The phase in which a checkpoint was written, as FreezingSchedule's state says."""
    for name, state in checkpoint.get("callbacks", {}).items():
        if name.startswith("FreezingSchedule"):
            return int(state["progress"]["index"])
    return 0
