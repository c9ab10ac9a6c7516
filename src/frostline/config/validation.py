"""Check a composed config against the schema: every problem at once, each with what was meant."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from frostline.config.commands import Command, Group, TrainKeys, given
from frostline.config.guesses import guessed
from frostline.config.key_text import fields_of, nested_section, type_text, value_text
from frostline.config.rules import broken_rules
from frostline.config.secret_values import marked
from frostline.config.section import FOLDER, OpenSection, Section
from frostline.nearest import nearest
from frostline.renamed import KEYS, OPTIONS, REMOVED
from frostline.storage.atomic import output_problem


def validate(command: Command, settings: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a composed config: one message a problem, an empty list where all is well.

    `defaults` is the config without the user's own values: the source of the defaults that messages name.
    """
    defaults = defaults or {}
    elsewhere = {*command.groups, *command.selectors}
    if command.selectors:
        # An experiment may say what only a training reads; on the command line Hydra's struct refuses it.
        elsewhere |= TrainKeys.model_fields.keys() - command.keys.model_fields.keys()
    own_keys = {key: value for key, value in settings.items() if key not in elsewhere}
    unpacked = [name for name in command.selectors if settings.get(name) is not None]
    problems = [
        f"{name}: keys under `{name}` are read by nothing. The first line of an own {name}/NAME.yaml has to be "
        "`# @package _global_`, so that its keys are the run's."
        for name in unpacked
    ]
    problems += section_problems(command.keys, own_keys, also_known=tuple(command.groups), defaults=defaults)
    sound: dict[str, Any] = {}
    if not problems:
        keys = command.keys.model_validate(given(own_keys))
        sound = {name: getattr(keys, name) for name in command.keys.model_fields}
    problems += output_problems(command.keys, sound, typed=own_keys)
    problems += [f"{key}: *** stands for a password or token; type the value itself." for key in marked(settings)]
    for name, group in command.groups.items():
        node = settings.get(name)
        if node is None:
            continue
        found = _group_problems(name, group, node, defaults=defaults.get(name) or {})
        problems += found
        if not found and (schema := group.schema_of(node)) is not None:
            sound[name] = schema.model_validate(given(node))
    return problems + broken_rules(sound)


def stored_problems(command: Command, settings: Mapping[str, Any]) -> list[str]:
    """The values of another type or range in a config that a checkpoint holds; a version's keys may be others."""
    problems = section_problems(command.keys, {key: settings[key] for key in ("seed",) if key in settings}, defaults={})
    for name, group in command.groups.items():
        if settings.get(name) is not None:
            problems += _group_problems(name, group, settings[name], defaults={})
    return [problem for problem in problems if not re.search(r"^[\w.]+: (missing;|unknown key)", problem)]


def output_problems(keys: type[Section], settings: Mapping[str, Any], *, typed: Mapping[str, Any]) -> list[str]:
    """The outputs among a command's own keys that cannot be written."""
    problems = []
    for name, field in keys.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "output" in extra and settings.get(name) is not None:
            slash = os.sep if str(typed[name]).endswith(os.sep) else ""  # which an absolute path has lost
            problem = output_problem(f"{settings[name]}{slash}", folder=extra == FOLDER)
            problems += [] if problem is None else [f"{name}: {problem}"]
    return problems


def _group_problems(name: str, group: Group, node: Any, *, defaults: Mapping[str, Any]) -> list[str]:
    if not isinstance(node, Mapping):
        return [f"{name}: takes the name of an option, or keys as {name}.KEY=VALUE, not `{value_text(node)}`."]
    schema = group.schema_of(node)
    if schema is None:
        return [unknown_choice(f"{name}.name", str(node.get("name")), group.by_name)]
    return section_problems(schema, node, prefix=f"{name}.", group=group, defaults=defaults)


def section_problems(
    schema: type[Section],
    node: Mapping[str, Any],
    *,
    prefix: str = "",
    also_known: tuple[str, ...] = (),
    group: Group | None = None,
    defaults: Mapping[str, Any],
) -> list[str]:
    """The problems of one section, each beginning with the key's full path."""
    try:
        schema.model_validate(given(node))
    except ValidationError as error:
        problems: dict[str, str] = {}
        for item in error.errors(include_url=False):
            if item["type"] == "extra_forbidden":
                name, (section, place, _) = str(item["loc"][-1]), _walk(schema, item["loc"][:-1])
                at_top = section is schema
                parent = prefix + (f"{place}." if place else "")
                known = [parent + other for other in (*fields_of(section), *(also_known if at_top else ()))]
                message = unknown_key(parent + name, known, group=group if at_top else None)
                problems.setdefault(parent + name, with_type(message, section, defaults if at_top else {}))
                continue
            first = str(item["loc"][0]) if item["loc"] else ""
            if first not in fields_of(schema) and issubclass(schema, OpenSection) and len(item["loc"]) == 1:
                known = [prefix + other for other in fields_of(schema)]
                found = with_type(unknown_key(prefix + first, known, group=group), schema, defaults)
                problems.setdefault(prefix + first, f"{found} A class of your own needs {prefix}{first}._target_.")
                continue
            _, place, field = _walk(schema, item["loc"])
            key = (prefix + place).rstrip(".")
            if item["type"] in ("value_error", "assertion_error"):
                message = f"{key}: {item['msg'].removeprefix('Value error, ')}"
            elif item["type"] == "missing" or field is None:
                message = _missing(key, field)
            else:
                kind = type_text(field)
                if key.endswith("]"):  # one item of the list
                    kind = kind.removeprefix("list of ").rpartition("values, each ")[2]
                if not isinstance(item["input"], Mapping):  # one item of the mapping
                    kind = kind.removeprefix("mapping of ") if get_origin(field.annotation) is dict else kind
                if item["type"] == "finite_number":
                    kind = f"a finite {kind}"
                message = f"{key}: must be {kind}, not `{_short(item['input'])}`{described(field)}."
            problems.setdefault(key, message)
        return list(problems.values())
    return []


def _short(value: Any) -> str:
    text = value_text(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def unknown_key(key: str, known: Iterable[str], *, group: Group | None = None) -> str:
    """Names the nearest key that exists, the options that have such a key, or the keys beside it."""
    known, (parent, _, name) = list(known), key.rpartition(".")
    if key in REMOVED:
        return f"{key}: {REMOVED[key]}"
    if key in KEYS:
        return f"{key}: is now called {KEYS[key]}."
    beside = [other for other in known if other.rpartition(".")[0] == parent]
    names = [other.rpartition(".")[2] for other in beside]
    owners = [option for option, schema in (group.by_name if group else {}).items() if name in fields_of(schema)]
    if owners:
        return f"{key}: unknown key here; it belongs to {', '.join(f'{parent}={option}' for option in owners)}."
    tops = {other.partition(".")[0] for other in known}
    elsewhere = [other for other in known if other.endswith(f".{name}")]
    if guess := guessed(name, tops) or (elsewhere[0] if len(elsewhere) == 1 else None):
        return f"{key}: unknown key. Did you mean {guess}?"
    if near := nearest(name, names):
        return f"{key}: unknown key. Did you mean {beside[names.index(near)]}?"
    if not beside and (near := nearest(key, known, cutoff=0.75)):
        return f"{key}: unknown key. Did you mean {near}?"
    listed = f" The keys of {parent} are: {', '.join(names)}." if parent and names else " See --help for all keys."
    return f"{key}: unknown key.{listed}"


def unknown_choice(key: str, choice: str, choices: Mapping[str, Any] | list[str]) -> str:
    """Names the nearest choice and lists all of them."""
    if (now := OPTIONS.get(key, {}).get(choice)) in choices:
        return f"{key}={choice}: is now called {key}={now}. The choices are: {', '.join(choices)}."
    near = nearest(choice, choices, cutoff=0.5)
    hint = f"Did you mean {key}={near}? " if near else ""
    return f"{key}={choice}: unknown option. {hint}The choices are: {', '.join(choices)}."


def _missing(key: str, field: FieldInfo | None) -> str:
    return f"{key}: missing; type {key}=VALUE{described(field)}."


def described(field: FieldInfo | None) -> str:
    """The key's help text in brackets."""
    return f" ({field.description})" if field and field.description else ""


def _walk(schema: type[Section], location: tuple[str | int, ...]) -> tuple[type[Section], str, FieldInfo | None]:
    """The innermost section, the key's path and its field, for an error's location as pydantic gives it."""
    section, path, field = schema, "", None
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        if part not in fields_of(section):
            if field is not None and get_origin(field.annotation) is dict:
                path += f".{part}"
            break  # no key: the tag that pydantic gives to a member of a union
        field = fields_of(section)[part]
        path += f".{part}" if path else part
        section = nested_section(field.annotation) or section
    return section, path, field


def with_type(message: str, section: type[Section], defaults: Mapping[str, Any]) -> str:
    """Adds type and default to `Did you mean optimizer.momentum?`."""
    _, found, guess = message.rpartition("Did you mean ")
    name = guess.partition("?")[0].rpartition(".")[2]
    field = fields_of(section).get(name)
    if not found or field is None:
        return message
    # The whole of a nested section would be no hint.
    plain = name in defaults and nested_section(field.annotation) is None
    default = f", default {value_text(defaults[name])}" if plain else ""
    return message.replace(f"{name}?", f"{name} ({type_text(field)}{default})?", 1)
