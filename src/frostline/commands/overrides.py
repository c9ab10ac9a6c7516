"""Check what was typed on the command line before Hydra acts on it: all mistakes in one report.

Hydra stops at the first mistake, advises `+` for a mistyped key and then accepts it unread; here each override is
looked at on its own, and what is wrong is left out of the composition that looks for the next mistake.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from frostline.commands import openmp
from frostline.commands.config_files import ConfigFiles, composing, group_options
from frostline.commands.quoting import override_text, parsed, shell_text, unreadable
from frostline.commands.words import apart, key_of, option_problem, typed_keys, without_keys
from frostline.config import secret_values
from frostline.config.commands import COMMANDS
from frostline.config.groups import CommandConfig
from frostline.config.key_text import fields_of
from frostline.config.validation import ConfigError, unknown_choice, unknown_key, validate, with_type
from frostline.storage.yaml_file import alias_problem, read_mapping

# A sweep of more jobs than this is checked up to here; composing one takes some 50 ms.
MOST_JOBS = 64
# The groups of all commands; a user's own ones may set keys of any.
GROUPS = {group for kind in COMMANDS.values() for group in (*kind.groups(), *kind.selectors)}


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """What stands on a command line: the command, its overrides, and where else configs are looked for."""

    command: str
    overrides: Sequence[str]
    config_dir: Path | None = None

    @property
    def kind(self) -> type[CommandConfig]:
        """The class of the command's config."""
        return COMMANDS[self.command]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A command line without mistakes: its config as Hydra composed it, with Hydra's own keys, and typed.

    Of a sweep, the first job's.
    """

    composed: DictConfig
    config: CommandConfig

    def folder(self, key: str) -> str:
        """The run folder, or that of a sweep.

        Raises:
            ValueError: it is named by what does not exist, or Hydra could not read it.
        """
        try:
            folder = str(OmegaConf.select(self.composed, key))
        except OmegaConfBaseException as error:
            raise ValueError(_in_short(error)) from None
        if not folder:
            raise ValueError(f"{key}: takes the path of a folder, not an empty text.")
        if "${" in folder:  # Hydra would read it again
            raise ValueError(f"The run folder `{folder}` cannot have ${{ in its name (RUN_ID, output_dir).")
        return folder


def problems_of(invocation: Invocation) -> list[str]:
    """Everything that is wrong with a command line: one message a problem."""
    try:
        check(invocation)
    except ConfigError as error:
        return error.problems
    return []


def check(invocation: Invocation) -> Checked:
    """Compose what a command line asks for.

    Raises:
        ConfigError: with everything that is wrong with the overrides and with the config that they compose.
    """
    folder, kind = invocation.config_dir, invocation.kind
    if folder is not None and not folder.is_dir():
        raise ConfigError([f"--config-dir: there is no folder `{folder}`."])
    own_files = sorted(folder.rglob("*.yaml")) if folder is not None else []
    if endless := [problem for file in own_files if (problem := alias_problem(file)) is not None]:
        raise ConfigError(endless)
    if asked := without_keys(invocation.command, invocation.overrides):
        raise ConfigError([asked])
    read = [(text, parsed(text)) for text in invocation.overrides]
    problems = apart(kind, invocation.overrides) or [
        unreadable(text) for text, override in read if override is None or not key_of(override)
    ]
    own_groups, groups = _groups_of(kind), group_options(folder)
    usable: list[Override] = []
    for override in (override for _, override in read if override is not None and key_of(override)):
        group = key_of(override).split("@")[0]
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:  # Hydra knows what it stands for
            continue
        if group not in groups or group.startswith("hydra/"):  # of which Hydra itself has more options
            usable.append(override)
        elif group in GROUPS - {*own_groups}:
            listed = ", ".join(own_groups) or "none"
            problems.append(f"{group}: {invocation.command} has no such group. Its groups are: {listed}.")
        elif problem := option_problem(override, groups[group], kind):
            problems.append(problem)
        else:
            usable.append(override)
    with composing(invocation.command, folder):
        try:
            checked = [_checked(invocation, job) for job in _jobs(usable)]
        except Exception as error:  # Hydra lets through whatever reading a file raises
            named = {problem.partition(":")[0] for problem in problems}
            problems += [p for p in _explained(invocation, usable, groups) if p.partition(":")[0] not in named]
            if not problems:
                raise error
    if problems:
        raise ConfigError(problems)
    return checked[0]


def _explained(invocation: Invocation, overrides: list[Override], groups: Mapping[str, list[str]]) -> list[str]:
    """What is wrong with a command line of which each word can be read."""
    kind = invocation.kind
    values = [override for override in overrides if key_of(override).split("@")[0] not in groups]
    usable = [override for override in overrides if override not in values]
    try:
        # A sweep's first options stand for all of them: which keys exist is asked of one config.
        defaults = resolved(_composed(invocation, next(_jobs(usable))))
    except Exception as error:
        return _of_composing(error, invocation)
    known, problems = [*_keys(defaults), *(group for group in groups if group in _groups_of(kind))], []
    for override in values:
        added = override.is_add() or override.is_force_add() or override.is_delete()
        if added or override.is_hydra_override() or key_of(override) in known:
            usable.append(override)
        else:
            problems.append(_unknown(key_of(override), known, kind, defaults, groups))
    for job in _jobs(usable):
        try:
            _checked(invocation, job, defaults)
        except ConfigError as error:
            problems += [_with_quoting(problem, values) for problem in error.problems]
        except Exception as error:
            problems += _of_composing(error, invocation)
    return problems


def _checked(invocation: Invocation, job: list[str], defaults: Mapping[str, Any] | None = None) -> Checked:
    composed = _composed(invocation, job)
    settings = resolved(composed)
    config = validate(invocation.kind, settings, defaults=defaults)
    if (stored := ConfigFiles.stored) is not None and not getattr(config, "trust_checkpoint", False):
        typed = typed_keys(invocation.overrides)
        if problems := stored.untrusted(settings, composed.hydra.runtime.choices, typed):
            raise ConfigError(problems)
    openmp.choose(getattr(config, "device", None))  # before anything imports torch
    if "_target_" in str(settings):
        from frostline.commands.own_classes import own_class_problems  # imports torch

        if problems := own_class_problems(config):
            raise ConfigError(problems)
    name = (settings.get("model") or {}).get("name", "")
    if name.startswith("timm/"):
        from frostline.models.backbones import timm_with  # imports timm

        try:
            timm_with(name)
        except ValueError as error:
            raise ConfigError([str(error)]) from None
    return Checked(composed=composed, config=config)


def _groups_of(kind: type[CommandConfig]) -> tuple[str, ...]:
    return (*kind.groups(), *kind.selectors)


def _jobs(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The override lists of a sweep's first jobs; one list where nothing is swept."""
    alternatives = []
    for override in overrides:
        if override.is_discrete_sweep():
            alternatives.append([f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()])
        elif not override.is_sweep_override():  # an interval is a sweeper plugin's to draw from
            alternatives.append([str(override.input_line)])
    return (list(job) for job in itertools.islice(itertools.product(*alternatives), MOST_JOBS))


def _composed(invocation: Invocation, overrides: list[str]) -> DictConfig:
    composed: DictConfig = compose(invocation.command, overrides=overrides, return_hydra_config=True)
    return composed


def without_hydra(composed: DictConfig) -> DictConfig:
    """The config without Hydra's own keys."""
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])


def resolved(composed: DictConfig) -> dict[str, Any]:
    """The config as plain values without Hydra's own, whose secrets are known from now on."""
    config = without_hydra(composed)
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    secret_values.remember(settings, OmegaConf.to_container(config, resolve=False))
    return {str(key): value for key, value in settings.items()}


def _keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _unknown(
    key: str, known: list[str], kind: type[CommandConfig], defaults: Mapping[str, Any], groups: Mapping[str, list[str]]
) -> str:
    name, _, rest = key.partition(".")
    group, node = kind.groups().get(name), defaults.get(name)
    schema = group.schema_of(node) if group is not None and isinstance(node, Mapping) else None
    part = rest.partition(".")[0]
    chosen = node or {}
    # logger.wandb.project without logger=wandb
    if schema is not None and part in fields_of(schema) and part in groups[name] and part not in chosen:
        return f"{key}: {name}={part} is not chosen. Several at once: {name}=[{','.join([*chosen, part])}]."
    message = unknown_key(key, known, group=group)
    return with_type(message, schema, node) if schema is not None and isinstance(node, Mapping) else message


def _with_quoting(problem: str, overrides: Sequence[Override]) -> str:
    """A text was wanted and something else typed, as output_dir=[a]: how to type it as a text."""
    for override in overrides:
        key, value = key_of(override), str(override.input_line).partition("=")[2]
        if value and problem.startswith((f"{key}: must be path", f"{key}: must be text")):
            return f"{problem} To have it as a text, type {shell_text(override_text(key, value))}"
    return problem


def _of_composing(error: Exception, invocation: Invocation) -> list[str]:
    """The files of the user's own that are at fault, else what Hydra says; a fault of ours stays an exception."""
    groups, folder, broken = group_options(invocation.config_dir), invocation.config_dir, []
    missing = re.search(r"Could not find '([\w/]+)/(\w+)'", str(error))
    if missing and missing[1] in GROUPS:  # named by a defaults list
        return [unknown_choice(missing[1], missing[2], groups[missing[1]])]
    place = re.search(r"In '([\w/]+)'", str(error))
    for file in sorted(folder.rglob(f"{place[1]}.yaml" if place else "*.yaml")) if folder else ():
        try:
            wrong = [key for key, value in read_mapping(file).items() if key in GROUPS and isinstance(value, list)]
            broken += [f"{file}: {key} takes keys with values (KEY: VALUE), not a list." for key in wrong]
        except ValueError as unreadable_file:
            broken.append(str(unreadable_file))
    if broken:
        return broken
    if isinstance(error, HydraException | OmegaConfBaseException):
        return [_in_short(error)]
    if invocation.config_dir is None:
        raise error
    reason = "a defaults list that names itself" if isinstance(error, RecursionError) else str(error)
    return [f"--config-dir: the files in `{invocation.config_dir}` make no config: {reason}."]


def _in_short(error: Exception) -> str:
    """What Hydra or OmegaConf says, without the advice to force an unknown key in by `+`."""
    # An error while a file is merged says nothing by itself; its cause does, and names the key.
    text = (str(error) or str(error.__cause__)).partition("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    key_is_unsaid = not str(error) or isinstance(error, InterpolationResolutionError)
    keys = [line.removeprefix("full_key: ") for line in lines if key_is_unsaid and line.startswith("full_key: ")]
    left_out = ("full_key", "object_type", "reference_type")
    text = " ".join(line for line in lines if "use +" not in line and not line.startswith(left_out))
    if merged := re.search(r"Error merging override \+*([^=]+)=(.*)", text):
        return f"{merged[1]}: takes no `{merged[2]}`; --help has its type."
    return ": ".join([*keys, text])
