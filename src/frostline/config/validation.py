"""Check a composed config against the schema: every problem at once, each with what was meant."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from frostline.config.commands import TrainConfig
from frostline.config.groups import GROUP, CommandConfig, Group
from frostline.config.guesses import REFUSED, guessed
from frostline.config.key_text import choices_in, fields_of, nested_section, type_text, value_text
from frostline.config.paths import place_of
from frostline.config.rules import broken_rules
from frostline.config.secret_values import marked
from frostline.config.section import OpenSection, OwnClass, Section
from frostline.nearest import nearest
from frostline.renamed import KEYS, OPTIONS, REMOVED

Config = TypeVar("Config", bound=CommandConfig)


class ConfigError(ValueError):
    """A config with mistakes: `problems` has one message for each."""

    def __init__(self, problems: Collection[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(dict.fromkeys(problems))


def validate(kind: type[Config], settings: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None) -> Config:
    """The typed config of composed settings.

    Args:
        defaults: the config without the user's own values, for the defaults that messages name.

    Raises:
        ConfigError: with everything that is wrong.
    """
    # An experiment may say what only a training reads; on the command line Hydra's struct refuses it.
    elsewhere = {*kind.selectors, *(TrainConfig.top_keys() if kind.selectors else ())} - kind.model_fields.keys()
    own = {key: value for key, value in settings.items() if key not in elsewhere}
    problems = [
        f"{name}: keys under `{name}` are read by nothing. The first line of an own {name}/NAME.yaml has to be "
        "`# @package _global_`, so that its keys are the run's."
        for name in kind.selectors
        if settings.get(name) is not None
    ]
    sound: dict[str, Any] = {}
    try:
        config = kind.model_validate(own, context=sound)
        sound = dict(config)
    except ValidationError as error:
        problems += _messages(error, kind, own, defaults or {})
    problems += (misplaced := list(path_problems(kind.model_fields, sound, typed=own)))
    problems += [f"{key}: *** stands for a password or token; type the value itself." for key in marked(settings)]
    keys = {problem.partition(":")[0] for problem in misplaced}
    problems += [problem for problem in broken_rules(sound) if problem.partition(":")[0] not in keys]
    if problems:
        raise ConfigError(problems)
    return config


def stored_problems(settings: Mapping[str, Any]) -> list[str]:
    """The values of another type or range in a config that a checkpoint holds; a version's keys may be others."""
    described = ("seed", *TrainConfig.groups())
    stored = {key: settings[key] for key in described if settings.get(key) is not None}
    try:
        TrainConfig.model_validate(stored)
    except ValidationError as error:
        return _messages(error, TrainConfig, stored, {}, left_out=("missing", "extra_forbidden"))
    return []


def path_problems(
    fields: Mapping[str, FieldInfo], sound: Mapping[str, Any], *, typed: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """The keys at whose paths lies something else than their type says, or nothing."""
    for name, field in fields.items():
        value, node = sound.get(name), typed.get(name)
        if isinstance(value, Section):
            inner = node if isinstance(node, Mapping) else {}
            yield from path_problems(fields_of(type(value)), dict(value), typed=inner, prefix=f"{prefix}{name}.")
        elif (place := place_of(field.annotation, field.metadata)) is not None:
            slash = os.sep if str(node).endswith(os.sep) else ""  # which an absolute path has lost
            choices = choices_in(field.annotation)
            for path in value if isinstance(value, list) else [value]:
                if path not in (None, *choices) and (problem := place.problem(f"{path}{slash}")):
                    yield f"{prefix}{name}: {problem}{f' It may be {type_text(field)}.' if choices else ''}"


def _messages(
    error: ValidationError,
    kind: type[CommandConfig],
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    left_out: Collection[str] = (),
) -> list[str]:
    """One message for each key, those of the command before those of its groups."""
    groups, found = kind.groups(), dict[str, str]()
    for item in error.errors(include_url=False):
        if item["type"] in left_out:
            continue
        location = item["loc"]
        group, node = groups.get(str(location[0])), settings.get(str(location[0]))
        if group is None or len(location) == 1:
            key, message = _message(item, location, kind, group, node, defaults)
        else:
            schema, top = group.schema_of(node or {}), str(location[0])
            assert schema is not None
            key, message = _message(item, location[1:], schema, group, node, defaults.get(top) or {}, prefix=f"{top}.")
        found.setdefault(key, message)
    return [found[key] for key in sorted(found, key=lambda key: key.partition(".")[0] in groups)]


def _message(
    item: Any,
    location: tuple[str | int, ...],
    schema: type[Section],
    group: Group | None,
    node: Any,
    defaults: Mapping[str, Any],
    *,
    prefix: str = "",
) -> tuple[str, str]:
    """The key's full path, and what is wrong with its value."""
    section, place, field = _walk(schema, location)
    key, kind, name = prefix + place, item["type"], str(location[-1])
    if kind == "no_section":
        return key, f"{key}: takes the name of an option, or keys as {key}.KEY=VALUE, not `{value_text(node)}`."
    if kind == "unknown_option" and group is not None:
        return key, unknown_choice(f"{key}.name", str(node.get("name")), group.by_name)
    if kind == "extra_forbidden" or (kind == "model_type" and issubclass(schema, OpenSection) and section is OwnClass):
        place = place.rpartition(".")[0] if section is OwnClass else place
        parent, at_top = prefix + (f"{place}." if place else ""), section in (schema, OwnClass)
        shown = schema if at_top else section
        known = [parent + other for other in fields_of(shown)]
        message = unknown_key(parent + name, known, group=group if at_top else None)
        message = with_type(message, shown, defaults if at_top else {})
        own = f" A class of your own needs {parent}{name}._target_." if section is OwnClass else ""
        return parent + name, message + own
    if kind in ("value_error", "assertion_error"):
        return key, f"{key}: {item['msg'].removeprefix('Value error, ')}"
    if kind == "missing" or field is None:
        return key, f"{key}: missing; type {key}=VALUE{_described(field)}."
    wanted = type_text(field)
    if key.endswith("]"):  # one item of the list
        wanted = wanted.removeprefix("list of ").rpartition("values, each ")[2]
    if not isinstance(item["input"], Mapping) and get_origin(field.annotation) is dict:  # one item of the mapping
        wanted = wanted.removeprefix("mapping of ")
    if kind == "finite_number":
        wanted = f"a finite {wanted}"
    value = value_text(item["input"])
    value = value if len(value) <= 200 else f"{value[:200]}…"
    return key, f"{key}: must be {wanted}, not `{value}`{_described(field)}."


def _walk(schema: type[Section], location: tuple[str | int, ...]) -> tuple[type[Section], str, FieldInfo | None]:
    """The innermost section, the key's path and its field, for an error's location as pydantic gives it."""
    section, path, field = schema, "", None
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        own = part not in fields_of(section) and issubclass(section, OpenSection)
        if part not in fields_of(section) and not own:
            if field is not None and get_origin(field.annotation) is dict:
                path += f".{part}"
            break  # no key: the tag that pydantic gives to a member of a union
        path += f".{part}" if path else part
        if own:  # a class under a name of the user's
            section = OwnClass
            continue
        field = fields_of(section)[part]
        section = nested_section(field.annotation) or section if GROUP not in field.metadata else section
    return section, path, field


def unknown_key(key: str, known: Iterable[str], *, group: Group | None = None) -> str:
    """Names the nearest key that exists, the options that have such a key, or the keys beside it."""
    if reason := REMOVED.get(key) or REFUSED.get(key):
        return f"{key}: {reason}"
    if key in KEYS:
        return f"{key}: is now called {KEYS[key]}."
    known, (parent, _, name) = list(known), key.rpartition(".")
    beside = [other for other in known if other.rpartition(".")[0] == parent]
    names = [other.rpartition(".")[2] for other in beside]
    owners = [option for option, schema in (group.by_name if group else {}).items() if name in fields_of(schema)]
    if owners:
        return f"{key}: unknown key here; it belongs to {', '.join(f'{parent}={option}' for option in owners)}."
    tops = {other.partition(".")[0] for other in known}
    elsewhere = [other for other in known if other.endswith(f".{name}")]
    if guess := guessed(name.lower(), tops) or (elsewhere[0] if len(elsewhere) == 1 else None):
        return f"{key}: unknown key. Did you mean {guess}?"
    if near := nearest(name.lower(), names):
        return f"{key}: unknown key. Did you mean {beside[names.index(near)]}?"
    if not beside and (near := nearest(key.lower(), known, cutoff=0.75)):
        return f"{key}: unknown key. Did you mean {near}?"
    listed = f" The keys of {parent} are: {', '.join(names)}." if parent and names else " See --help for all keys."
    return f"{key}: unknown key.{listed}"


def unknown_choice(key: str, choice: str, choices: Collection[str]) -> str:
    """Names the nearest choice and lists all of them."""
    if (now := OPTIONS.get(key.removesuffix(".name"), {}).get(choice)) in choices:
        return f"{key}={choice}: is now called {key}={now}. The choices are: {', '.join(choices)}."
    near = nearest(choice, choices, cutoff=0.5)
    hint = f"Did you mean {key}={near}? " if near else ""
    return f"{key}={choice}: unknown option. {hint}The choices are: {', '.join(choices)}."


def _described(field: FieldInfo | None) -> str:
    """The key's help text in brackets."""
    return f" ({field.description})" if field and field.description else ""


def with_type(message: str, section: type[Section], defaults: Mapping[str, Any]) -> str:
    """Adds type and default to `Did you mean optimizer.momentum?`."""
    _, found, guess = message.rpartition("Did you mean ")
    name = guess.partition("?")[0].rpartition(".")[2]
    field = fields_of(section).get(name)
    if not found or field is None or GROUP in field.metadata:
        return message
    # The whole of a nested section would be no hint.
    plain = name in defaults and nested_section(field.annotation) is None
    default = f", default {value_text(defaults[name])}" if plain else ""
    return message.replace(f"{name}?", f"{name} ({type_text(field)}{default})?", 1)
