"""One message for several problems."""

from collections.abc import Sequence

MOST_LISTED, MOST_BROKEN = 10, 1000  # problems, and broken images, that one message names


def listed(problems: Sequence[str], what: str, *, most: int = MOST_LISTED) -> str:
    """One message for several problems: the first `most`, and how many there are."""
    if len(problems) == 1:
        return problems[0]
    more = [f"  … and {len(problems) - most:,} more"] if len(problems) > most else []
    return "\n".join([f"{len(problems):,} {what}:", *(f"  {each}" for each in problems[:most]), *more])
