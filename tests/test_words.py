"""Plain English in the field's standard terms: words that the package and its docs do not use."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Word -> what to write.
AVOIDED = {
    "whoever": "a noun",
    "nobody": "no, not",
    "somebody": "a noun",
    "anew": "again",
    "told": "reported, or the message itself",
    "said": "reported, or the message itself",
    "speaks of": "lists, names",
    "makes? room": "evict (LRU)",
    "held still": "frozen",
    "keeps the minutes": "records",
    "torn": "corrupt",
    r"thaw\w*": "unfreeze",
    "mend(s|ed|ing)?": "fix",
    "house": "package",
    "rooms?": "package",
}
PATTERN = re.compile(rf"\b({'|'.join(AVOIDED)})\b", re.IGNORECASE)
TEXTS = [
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted((ROOT / "scripts").rglob("*.py")),
    *sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)),
    *sorted((ROOT / "examples").rglob("*.*")),
    *sorted((ROOT / "conf").rglob("*.yaml")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "train.py")),
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_words(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [f"{number}: {match[0]}" for number, line in enumerate(lines, 1) if (match := PATTERN.search(line))]
    assert found == []


@pytest.mark.parametrize("text", ["Nobody reads it", "a stage thaws", "what makes room", "It was told."])
def test_an_avoided_word_is_found(text: str) -> None:
    assert PATTERN.search(text)
