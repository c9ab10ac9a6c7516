"""Sections of docs/benchmarks-history.md that a script writes, each between markers of its own; the machine's name."""

import platform
import re
from pathlib import Path


def section_in(document: Path, name: str) -> str | None:
    """What stands between `<!-- name -->` and `<!-- /name -->`; None where they are not there."""
    begin, end = markers(name)
    found = re.search(f"{begin}\n(.*?)\n{end}", document.read_text(), flags=re.DOTALL) if document.exists() else None
    return found[1] if found else None


def put_section(document: Path, name: str, text: str) -> None:
    """Put a text between its markers, at the end of the document where there are none yet."""
    begin, end = markers(name)
    before = document.read_text() if document.exists() else "# Benchmarks\n"
    block = f"{begin}\n{text}\n{end}"
    if section_in(document, name) is None:
        after = f"{before.rstrip()}\n\n{block}\n"
    else:
        after = re.sub(f"{begin}\n.*?\n{end}", lambda _: block, before, flags=re.DOTALL)
    document.write_text(after)


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def processor() -> str:
    """The name of the machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if "model name" in line), platform.machine())
