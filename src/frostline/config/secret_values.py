"""Passwords, tokens and keys in a config: a run works with them, and nothing that it writes or prints holds them.

A value is secret if its key or its environment variable is named like one, or if it stands before the @ or in the query
of an address. Whatever leaves the process passes `hide` or `hidden`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

MARK = "***"
NAMES = re.compile(
    "passw|passphrase|secret|credential|signature|api_?key|access_?key|private_?key|authorization|cookie"
)
# Names of texts: `max_tokens: 512` is no secret.
TEXT_NAMES = re.compile("(^|_)(token|auth|sig|pwd|jwt)s?$")
SCHEME = re.compile("(basic|bearer|token) +", re.IGNORECASE)  # before the value of an Authorization header
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>`]+", re.IGNORECASE)
ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*([^,}\s]+)")
SHORTEST = 4  # characters of a secret that is replaced wherever it stands
HARMLESS = 8  # characters that a query's value must have to be secret under a harmless name
# An environment variable's value is secret under a harmless name if it is so long and mixes letters and digits.
RANDOM = 12

_known: dict[str, str] = {}


def remember(settings: Any, raw: Any = None) -> None:
    """Note the secrets in a resolved config, or in a text.

    Args:
        raw: the config with its interpolations.
    """
    for key, text in _texts(settings):
        if _is_secret(key):
            _add(text)
            _add(SCHEME.sub("", text, count=1))
        for address in ADDRESS.findall(text):
            _remember_address(address)
    for _, text in _texts(raw):
        for name in ENVIRONMENT.findall(text):
            value = os.environ.get(name, "")
            mixed = re.search("[0-9]", value) and re.search("[A-Za-z]", value) and "/" not in value
            if _is_secret(name) or (mixed and len(value) >= RANDOM):
                _add(value)


def hide(text: str) -> str:
    """The text with each secret as ***."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _known[secret])
    return text


def hidden(value: Any, key: str = "") -> Any:
    """Plain values with each secret as ***."""
    if isinstance(value, Mapping):
        return {name: hidden(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(item, key) for item in value]
    if isinstance(value, str):
        return MARK if value and _is_secret(key) else hide(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return MARK if number and _is_secret(key, number=True) else value


def with_secrets(recorded: Any, own: Any) -> Any:
    """A config that was recorded, with the secrets of the same config as this process composed it."""
    if isinstance(recorded, Mapping):
        return {k: with_secrets(item, own.get(k) if isinstance(own, Mapping) else None) for k, item in recorded.items()}
    if isinstance(recorded, list):
        others = own if isinstance(own, list) and len(own) == len(recorded) else [None] * len(recorded)
        return [with_secrets(item, other) for item, other in zip(recorded, others, strict=True)]
    return own if isinstance(recorded, str) and MARK in recorded and own is not None else recorded


def known() -> dict[str, str]:
    """What was remembered, for another process of the run."""
    return dict(_known)


def also_know(secrets: Mapping[str, str]) -> None:
    """Remember what another process of the run did."""
    _known.update(secrets)


def marked(settings: Any) -> list[str]:
    """The keys whose values hold a ***."""
    return [key for key, text in _texts(settings) if MARK in text]


def refuse_hidden(settings: Any, *, where: str) -> None:
    """Raises ValueError if recorded settings hold a *** whose value is needed."""
    if keys := marked(settings):
        raise ValueError(f"{keys[0]}: {where} does not keep passwords and tokens. Type the value again: {keys[0]}=…")


def _is_secret(key: str, *, number: bool = False) -> bool:
    name = re.sub("([a-z0-9])([A-Z])", r"\1_\2", key.rpartition(".")[2]).lower().replace("-", "_")
    return NAMES.search(name) is not None or (not number and TEXT_NAMES.search(name) is not None)


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for name, item in node.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _texts(item, key)
    elif isinstance(node, str):
        yield key, node


def _remember_address(address: str) -> None:
    _, _, rest = address.partition("://")
    place, mark, query = rest.partition("?")
    user, at, _ = re.split("[/#]", place, maxsplit=1)[0].rpartition("@")
    if at:
        _known[f"{user}@"] = f"{MARK}@"
        _add(user.partition(":")[2] or user)
    for name, value in re.findall("([^&=#]+)=([^&#]*)", query if mark else ""):
        if _is_secret(name) or len(value) >= HARMLESS:
            _known[f"{name}={value}"] = f"{name}={MARK}"
            _add(value)


def _add(secret: str) -> None:
    for text in {secret, unquote(secret)} - {MARK}:
        if len(text) >= SHORTEST:
            _known[text] = MARK
