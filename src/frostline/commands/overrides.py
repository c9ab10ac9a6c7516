"""Check what was typed on the command line before Hydra acts on it: all mistakes in one report.

Hydra stops at the first mistake, advises `+` for a mistyped key and then accepts it unread; here each override is
looked at on its own, and what is wrong is left out of the composition that looks for the next mistake.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from frostline.commands.config_files import composing, group_options
from frostline.commands.quoting import override_text, parsed, shell_text, unreadable
from frostline.config import secret_values
from frostline.config.commands import COMMANDS, Command, config_of
from frostline.config.guesses import WITHOUT_KEY
from frostline.config.key_text import fields_of, value_text
from frostline.config.paths import absolute
from frostline.config.validation import unknown_choice, unknown_key, validate, with_type
from frostline.storage.yaml_file import alias_problem, read_mapping

# A sweep of more jobs than this is checked up to here; composing one takes some 50 ms.
MOST_JOBS = 64
# Groups of which several options may be chosen.
LISTS = ("logger",)
# Where Hydra makes run folders.
RUN_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
# The groups of all commands; a user's own ones may set keys of any.
GROUPS = {group for command in COMMANDS.values() for group in (*command.groups, *command.selectors)}


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """What stands on a command line: the command, its overrides, and where else configs are looked for."""

    command: str
    overrides: Sequence[str]
    config_dir: Path | None = None


def problems_of(invocation: Invocation, command: Command) -> list[str]:
    """Everything that is wrong with the overrides and with the config that they compose: one message a problem."""
    if invocation.config_dir is not None and not invocation.config_dir.is_dir():
        return [f"--config-dir: there is no folder `{invocation.config_dir}`."]
    own_files = sorted(invocation.config_dir.rglob("*.yaml")) if invocation.config_dir is not None else []
    if endless := [problem for file in own_files if (problem := alias_problem(file)) is not None]:
        return endless
    problems: list[str] = []
    bare = [word for word in invocation.overrides if word and "=" not in word and not word.startswith("~")]
    keys = WITHOUT_KEY[invocation.command][: len(bare)]
    if bare and len(keys) == len(bare) and any(Path(word).expanduser().exists() for word in bare):
        typed = [(key.split(), word) for key, word in zip(keys, bare, strict=True)]
        asked = shell_text(*(part for key, word in typed for part in (*key[:-1], override_text(key[-1], word))))
        return [f"{' '.join(bare)}: values need their keys. Type {asked}"]
    overrides = _parsed(invocation.overrides, problems)
    with composing(invocation.command, invocation.config_dir):
        groups = group_options(invocation.config_dir)
        options, values = [], []
        for override in overrides:
            if override.value_type is ValueType.GLOB_CHOICE_SWEEP:  # Hydra knows what it stands for
                continue
            group = _key(override).split("@")[0]
            if group not in groups or group.startswith("hydra/"):  # of which Hydra itself has more options
                values.append(override)
            elif group in GROUPS - {*command.groups, *command.selectors}:
                own = ", ".join((*command.groups, *command.selectors)) or "none"
                problems.append(f"{group}: {invocation.command} has no such group. Its groups are: {own}.")
            elif problem := _option_problem(override, groups[group], command):
                problems.append(problem)
            else:
                options.append(override)
        try:
            # A sweep's first options stand for all of them: which keys exist is asked of one config.
            defaults = _composed(invocation, next(_jobs(options)))
        except Exception as error:  # Hydra lets through whatever reading a file raises
            return [*problems, *_of_composing(error, invocation)]
        known = [*_keys(defaults), *(group for group in groups if group in (*command.groups, *command.selectors))]
        usable = list(options)
        for override in values:
            added = override.is_add() or override.is_force_add() or override.is_delete()
            if added or override.is_hydra_override() or _key(override) in known:
                usable.append(override)
            else:
                problems.append(_unknown(_key(override), known, command, defaults, groups))
        for job in itertools.islice(_jobs(usable), MOST_JOBS):
            try:
                settings = _composed(invocation, job)
            except Exception as error:
                problems += [found for found in _of_composing(error, invocation) if found not in problems]
                continue
            found = [_with_quoting(p, overrides) for p in validate(command, settings, defaults=defaults)]
            found = found or _of_own_classes(command, settings)
            problems += [p for p in found if p not in problems]
    return problems


def _of_own_classes(command: Command, settings: Mapping[str, Any]) -> list[str]:
    if "_target_" not in str(settings):
        return []
    from frostline.commands.own_classes import own_class_problems  # imports torch

    return own_class_problems(config_of(command.config, settings))


def unswept(texts: Sequence[str]) -> list[str]:
    """What to type in place of several values where nothing is swept."""
    found = []
    for text in texts:
        override = parsed(text)
        if override is not None and override.is_sweep_override():
            key, value = _key(override), text.partition("=")[2]
            listed = f" as a list {shell_text(f'{key}=[{value}]')}," if override.is_choice_sweep() else ""
            quoted = shell_text(override_text(key, value))
            found.append(
                f"{key}: several values are for a sweep, with -m. To have them{listed} as a text type {quoted}"
            )
    return found


def _parsed(texts: Sequence[str], problems: list[str]) -> list[Override]:
    read = []
    for text in texts:
        if (override := parsed(text)) is not None and _key(override):
            read.append(override)
        else:
            problems.append(unreadable(text))
    return read


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _option_problem(override: Override, options: list[str], command: Command) -> str | None:
    key = _key(override)
    if override.is_delete():
        return f"~{key}: cannot be left out; choose one of {', '.join(options)}." if key in command.groups else None
    if override.is_add() and key in (*command.groups, *command.selectors):
        return f"+{key}: this group has an option already; write {key}=… without +."
    if override.value() is None:
        return f"{key}=null: takes the name of an option, or is left out. The choices are: {', '.join(options)}."
    if isinstance(override.value(), list) and key in command.groups and key not in LISTS:
        swept = ",".join(map(str, override.value()))
        return f"{key}: takes one option. To try several one after the other: -m {key}={swept}"
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    for value in values:
        for option in value if isinstance(value, list) else [value]:
            if str(option) not in options:
                return unknown_choice(key, value_text(option), options)
    return None


def adapted(texts: Sequence[str]) -> list[str]:
    """The overrides for Hydra in place of those that were typed.

    `freeze.lr={stem: 0.01}` adds keys to a mapping that is empty by default, which Hydra does for `++` only; keys that
    are not read are found afterwards, as for a `+` that a user types. And a run folder named to Hydra is a path.
    """
    passed = []
    for text in texts:
        override = parsed(text)
        value = override.value() if override is not None else None  # what cannot be read, `problems_of` reports
        if isinstance(value, dict) and not text.startswith(("+", "~")):
            text = f"++{text}"
        elif override is not None and _key(override) in RUN_FOLDERS and str(value).startswith("~"):
            text = override_text(_key(override), absolute(str(value)))
        passed.append(text)
    return passed


def _jobs(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The override lists of a sweep's jobs; one list where nothing is swept."""
    alternatives = []
    for override in overrides:
        if override.is_discrete_sweep():
            alternatives.append([f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()])
        elif not override.is_sweep_override():  # an interval is a sweeper plugin's to draw from
            alternatives.append([str(override.input_line)])
    return (list(job) for job in itertools.product(*alternatives))


def run_folder_of(invocation: Invocation, *, key: str = RUN_FOLDERS[0]) -> str:
    """The run folder of a command line (or the sweep's), found without Hydra's main, which sets up logging in it.

    Raises:
        ValueError: it is named by what does not exist, or Hydra cannot read it.
    """
    try:
        with composing(invocation.command, invocation.config_dir):
            overrides = [override for text in invocation.overrides if (override := parsed(text)) is not None]
            config = compose(invocation.command, overrides=next(_jobs(overrides)), return_hydra_config=True)
            folder = str(OmegaConf.select(config, key))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_in_short(error)) from None
    if "${" in folder:  # Hydra would read it again
        raise ValueError(f"The run folder `{folder}` cannot have ${{ in its name (RUN_ID, output_dir).")
    return folder


def _composed(invocation: Invocation, overrides: list[str]) -> dict[str, Any]:
    return resolved(compose(config_name=invocation.command, overrides=overrides))


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, whose secrets are known from now on."""
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    secret_values.remember(settings, OmegaConf.to_container(config, resolve=False))
    return {str(key): value for key, value in settings.items()}


def composed_here(invocation: Invocation) -> dict[str, Any]:
    """The config of a command line, as this process composes it."""
    with composing(invocation.command, invocation.config_dir):
        settings = _composed(invocation, list(invocation.overrides))
    return config_of(COMMANDS[invocation.command].config, settings).as_dict()


def _keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _unknown(
    key: str, known: list[str], command: Command, defaults: Mapping[str, Any], groups: Mapping[str, list[str]]
) -> str:
    name, _, rest = key.partition(".")
    group, node = command.groups.get(name), defaults.get(name)
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
        key, value = _key(override), str(override.input_line).partition("=")[2]
        if value and problem.startswith((f"{key}: must be path", f"{key}: must be text")):
            return f"{problem} To have it as a text, type {shell_text(override_text(key, value))}"
    return problem


def _of_composing(error: Exception, invocation: Invocation) -> list[str]:
    """The files of the user's own that are at fault, else what Hydra says; a fault of ours stays an exception."""
    broken = []
    for file in sorted(invocation.config_dir.rglob("*.yaml")) if invocation.config_dir else ():
        try:
            read_mapping(file)
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
    return ": ".join([*keys, text])
