"""The names closest to a mistyped one."""

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The closest choice, or None where none is at least `cutoff` similar (0 to 1)."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)), None)


def suggest(word: str, choices: Iterable[str]) -> str:
    """` Did you mean `a` or `b`?`, with up to three choices; an empty text where none is close."""
    close = difflib.get_close_matches(word, sorted(set(choices)), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(f'`{name}`' for name in close)}?" if close else ""
