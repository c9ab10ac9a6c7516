"""What a key is, in words: for `--help`, the docs table and the error messages."""

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from frostline.config.paths import PATH
from frostline.config.section import OwnClass, Section

Fields = dict[str, FieldInfo]
NAMES = {bool: "true or false", int: "integer", float: "float", str: "text", type(None): "null", dict: "mapping"}
SIGNS = {
    annotated_types.Ge: ("≥", "ge"),
    annotated_types.Gt: (">", "gt"),
    annotated_types.Le: ("≤", "le"),
    annotated_types.Lt: ("<", "lt"),
}


def fields_of(section: type[Section]) -> Fields:
    """The section's keys as a user writes them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def type_text(field: FieldInfo) -> str:
    """Such as `float ≥ 0`, `integer ≥ 1 or null`, `one of auto, cpu, gpu`."""
    return _text(field.annotation, field.metadata)


def value_text(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(value_text(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {value_text(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value)


def nested_section(annotation: Any) -> type[Section] | None:
    """The section inside `Section | None`, `list[Section]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in get_args(annotation):
        if get_origin(annotation) is not Literal and (found := nested_section(part)):
            return found
    return None


def choices_in(annotation: Any) -> list[Any]:
    """The names that a key takes beside something else: `OwnProfiler | Literal["simple", …] | None`."""
    return [name for part in get_args(annotation) if get_origin(part) is Literal for name in get_args(part)]


def _text(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    metadata = list(_flat(metadata))
    limits = [f"{sign} {value_text(getattr(item, name))}" for item in metadata for sign, name in _sign(item)]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = _text(parts[0], parts[1:])
    elif PATH in metadata:
        text = "path"
    elif origin in (Union, types.UnionType):
        text, limits = " or ".join([_text(parts[0], metadata), *map(_text, parts[1:])]), []
    elif origin is Literal:
        text = ("one of " if len(parts) > 1 else "") + ", ".join(map(value_text, parts))
    elif origin is list:
        text = f"list of {_length(metadata)}{_text(parts[0])}"
    elif origin is dict:
        text = f"mapping of {_text(parts[1])}"
    elif section := nested_section(annotation):
        text = "a class by _target_" if issubclass(section, OwnClass) else "keys of its own"
    else:
        text = NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return " and ".join([f"{text} {limits[0]}", *limits[1:]]) if limits else text


def _flat(metadata: Iterable[Any]) -> Iterable[Any]:
    for item in metadata:
        # Annotated[int, Field(ge=1)] carries its limits inside a FieldInfo.
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)


def _length(metadata: Iterable[Any]) -> str:
    """How many items a list must have, where that is one number: `2 values, each `."""
    least = [item.min_length for item in metadata if isinstance(item, annotated_types.MinLen)]
    most = [item.max_length for item in metadata if isinstance(item, annotated_types.MaxLen)]
    return f"{least[0]} values, each " if least and least == most else ""


def _sign(item: Any) -> Iterable[tuple[str, str]]:
    for kind, (sign, name) in SIGNS.items():
        if isinstance(item, kind):
            yield sign, name
