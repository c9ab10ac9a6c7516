"""Plain values into a policy: every key read, every mistake named."""

import math
from collections.abc import Mapping, Sequence

from frostline.nearest import suggest


def check_keys(plain: object, allowed: Sequence[str], where: str) -> Mapping[str, object]:
    """`plain` as a mapping whose keys are all among `allowed`.

    Raises:
        ValueError: it is no mapping, or has a key that nobody would read.
    """
    if not isinstance(plain, Mapping):
        raise ValueError(f"{where} must be a mapping with the keys {', '.join(allowed)}; got {plain!r}.")
    for key in plain:
        if key not in allowed:
            hint = suggest(str(key), allowed)
            raise ValueError(f"{where} has no key `{key}`; it has {', '.join(allowed)}.{hint}")
    return plain


def as_text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} must be a name; got {value!r}.")
    return value


def as_int(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where} must be a whole number; got {value!r}.")
    return value


def as_float(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} must be a number; got {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number; got {value!r}.")
    return float(value)


def as_names(value: object, where: str) -> tuple[str, ...]:
    """A list of names; a lone string would otherwise be read letter by letter."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{where} must be a list, like [layer4, head]; got {value!r}.")
    return tuple(as_text(entry, f"each entry of {where}") for entry in value)
