"""The pages that people read, README.md and docs/, as their code blocks and links."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", ROOT / "BENCHMARKS.md", *sorted((ROOT / "docs").rglob("*.md")))


class Block(NamedTuple):
    page: Path
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a bash block without blank lines and comments; a line that ends in a backslash goes on."""
        lines = self.text.replace("\\\n", " ").splitlines()
        stripped = (re.sub(r"\s+#\s.*", "", line).strip() for line in lines)
        return [line for line in stripped if line and not line.startswith("#")]


def blocks(page: Path, language: str = "") -> list[Block]:
    """The fenced blocks of a page, in order; with `language`, those of that language."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(page, kind, text) for kind, text in found if language in ("", kind)]


def commands(page: Path) -> list[str]:
    """Every command in the bash blocks of a page."""
    return [line for block in blocks(page, "bash") for line in block.commands]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))
