"""A key of a policy: its help text and limits, and the check of a value. `config/freeze.py` reads both, too."""

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from frostline.nearest import suggest

KINDS = {int: "a whole number", float: "a number", str: "a name"}
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}  # named as in `operator` and pydantic


def key(description: str, **limits: float) -> dict[str, Any]:
    """What a field's annotation says beside its type: `Annotated[int, key("…", ge=1)]`."""
    return {"description": description, **limits}


def keys_of(kind: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type, and help text and limits, of each field of a dataclass."""
    return {entry.name: get_args(entry.type) for entry in dataclasses.fields(kind)}


def check_fields(values: Any, where: str) -> None:
    """Check every field of a dataclass's object; a message begins with `where` and the field's name.

    Raises:
        ValueError: a value is of another type, or outside the limits.
    """
    for name, (kind, more) in keys_of(values).items():
        check_value(getattr(values, name), kind, f"{where}{name}`", more)


def check_value(value: Any, kind: Any, where: str, more: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Check one value; see `check_fields`."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return
    kind, inside = get_origin(kinds[0]) or kinds[0], get_args(kinds[0])
    if kind is Literal:
        if value not in inside:
            raise ValueError(f"{where} must be one of {', '.join(inside)}; got {value!r}.")
    elif kind is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):  # a string would be read letter by letter
            raise ValueError(f"{where} must be a list; got {value!r}.")
        for item in value:
            check_value(item, inside[0], f"{where}: each entry")
    elif kind is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a mapping ({more['description']}); got {value!r}.")
        for name, item in value.items():
            check_value(item, inside[1], f"{where[:-1]}.{name}`", more)
    elif not isinstance(value, int | float if kind is float else kind) or isinstance(value, bool) or value == "":
        raise ValueError(f"{where} must be {KINDS.get(kind, kind.__name__)}; got {value!r}.")
    elif kind in (int, float):
        limits = {name: limit for name, limit in more.items() if name in LIMITS}
        within = all(getattr(operator, name)(value, limit) for name, limit in limits.items())
        if not (within and math.isfinite(value)):
            wanted = [f"{LIMITS[name]} {limit}" for name, limit in limits.items()] + ["finite"] * (kind is float)
            raise ValueError(f"{where} must be {' and '.join(wanted)} ({more['description']}); got {value}.")


def check_names(plain: object, allowed: Sequence[str], where: str) -> dict[str, Any]:
    """The keys and values of a mapping.

    Raises:
        ValueError: it is no mapping, or a key is unknown; the message lists the keys that there are.
    """
    if not isinstance(plain, Mapping):
        raise ValueError(f"{where} must be a mapping with the keys {', '.join(allowed)}; got {plain!r}.")
    for name in plain:
        if name not in allowed:
            raise ValueError(f"{where} has no key `{name}`; it has {', '.join(allowed)}.{suggest(str(name), allowed)}")
    return dict(plain)
