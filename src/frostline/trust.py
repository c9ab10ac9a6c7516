"""What a checkpoint's config asks for that only a trusted one gets: classes, addresses, files to write."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

# Modules whose classes a checkpoint may name: their imports and constructors write and contact nothing.
OWN_MODULES = ("frostline", "torch.nn", "torch.optim", "torchmetrics.classification", "torchvision.models")


def classes_named(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, class) of each class outside `OWN_MODULES` in config sections: importing it runs its code."""
    for key, value in sections.items():
        if key == "_target_" and not str(value).startswith(tuple(f"{module}." for module in OWN_MODULES)):
            yield key, str(value)
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", target) for inner, target in classes_named(value))
        elif isinstance(value, list | tuple):
            yield from (pair for item in value if isinstance(item, Mapping) for pair in classes_named({key: item}))


def addresses_named(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, address) of each other machine in config sections."""
    for key, value in sections.items():
        if isinstance(value, str) and ("://" in value or value.startswith("\\\\")):
            yield key, value
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", address) for inner, address in addresses_named(value))


def needs_trust(settings: Mapping[str, Any]) -> bool:
    """Whether a run with this config goes on as before only if its checkpoint is trusted."""
    data, weights = settings.get("data") or {}, str((settings.get("model") or {}).get("weights"))
    asked = [*classes_named(settings), *addresses_named({"data": data}), *reading_only(data)]
    return bool(asked) or "://" in weights


def check_trust(path: str | Path, sections: Mapping[str, Any], *, how: str = "trust_checkpoint=True") -> None:
    """Refuse config sections of a checkpoint that name another package's class or an address.

    Args:
        sections: the part of the checkpoint's config that is about to be built.
        how: how the user allows it.

    Raises:
        ValueError: they do.
    """
    asked = [f"import {target} ({key})" for key, target in classes_named(sections)]
    data = sections.get("data")
    if isinstance(data, Mapping):
        asked += [f"contact {address} ({key})" for key, address in addresses_named({"data": data})]
    if asked:
        raise ValueError(
            f"{path}: would have frostline {', and '.join(asked)}. A checkpoint is not obeyed unless you say so: if "
            f"you trust the file, {how}"
            + ("; or name the data yourself, as data=…" if any("(data." in item for item in asked) else "")
        )


def reading_only(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values with which a checkpoint's data section only reads: nothing is written or fetched."""
    quiet = {"decoded_cache": None, "cache_dir": None, "download": False}
    return {key: value for key, value in quiet.items() if data.get(key)}


def without_keys(sections: Mapping[str, Any], keys: Collection[str], place: str = "") -> dict[str, Any]:
    """Nested sections without the values at these paths of keys."""
    return {
        key: without_keys(value, keys, f"{place}{key}.") if isinstance(value, dict) else value
        for key, value in sections.items()
        if place + key not in keys
    }
