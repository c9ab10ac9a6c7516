"""An override as it has to be typed, in Hydra's grammar and for a shell."""

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

# Longer words are no typing mistake, and are not printed whole.
LONGEST = 1000
# "[[[…" too deep for Python; an integer of more digits than Python converts.
UNREADABLE = (HydraException, RecursionError, ValueError)


def parsed(text: str) -> Override | None:
    """An override, or None if Hydra's grammar has no such text."""
    try:
        return OverridesParser.create().parse_override(text)
    except UNREADABLE:
        return None


def override_text(key: str, value: str) -> str:
    """`KEY=VALUE` that gives the key exactly this text, quoted where Hydra would take it for something else."""
    literal = literal_text(value)
    plain = parsed(f"{key}={literal}")
    if value and plain is not None and plain.value_type is not None and plain.value() == literal:
        return f"{key}={literal}"
    return f"{key}={QuotedString(literal, Quote.double).with_quotes()}"


def literal_text(text: str) -> str:
    """The text as OmegaConf keeps it: it reads ${…}, unless a backslash stands before it, where others are doubled."""
    return re.sub(r"(\\*)\$\{", lambda found: rf"{found[1] * 2}\${{", text)


def shell_text(*words: str) -> str:
    """The words as they are typed in a shell."""
    return shlex.join(words)


def shell_words(text: str) -> list[str]:
    """What a shell makes of it: the opposite of `shell_text`."""
    return shlex.split(text)


def unreadable(text: str) -> str:
    """What to type instead of a word that Hydra's grammar does not have."""
    if len(text) > LONGEST:
        return f"{text[:40]}…: {len(text):,} characters that cannot be read."
    key, equals, value = text.partition("=")
    if equals and key and parsed(f"{key}=1") is not None:
        asked = shell_text(override_text(key, value))
        return f"{key}: the value is not in Hydra's grammar. To have it as a text, type {asked}"
    return f"{text}: cannot be read. Write KEY=VALUE, with quotes around special characters."
