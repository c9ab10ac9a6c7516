"""The defaults of a config file: what it leaves out, from the classes that describe its keys."""

from collections.abc import Mapping
from typing import Any, get_origin

from frostline.config.commands import COMMANDS, RUN_GROUPS
from frostline.config.key_text import fields_of, nested_section
from frostline.config.section import MISSING, Section


def with_defaults(place: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config file with the defaults of those that it leaves out.

    A file with a defaults list of its own changes another option; what it leaves out is that option's.

    Args:
        place: `optimizer/sgd` for an option of a group, `train` for a command.
    """
    group, _, name = place.rpartition("/")
    if group:
        schema = RUN_GROUPS[group].schema_of(node) if group in RUN_GROUPS and "defaults" not in node else None
    else:
        schema = COMMANDS[name].keys if name in COMMANDS else None
    return dict(node) if schema is None else _filled(schema, node)


def _filled(schema: type[Section], node: Mapping[str, Any]) -> dict[str, Any]:
    filled: dict[str, Any] = {"name": node["name"]} if "name" in node else {}
    for key, field in fields_of(schema).items():
        nested = nested_section(field.annotation)
        if nested is not None and get_origin(field.annotation) is not list:
            if key in node:  # a part that is chosen, as a logger
                filled[key] = _filled(nested, node[key] or {})
        elif key in node:
            filled[key] = node[key]
        else:
            filled[key] = MISSING if field.is_required() else field.get_default(call_default_factory=True)
    return filled | {key: value for key, value in node.items() if key not in filled}
