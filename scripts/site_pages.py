"""mkdocs hooks: the site's pages that come from the repository's root, and links that leave docs/."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FROM_ROOT = {name.lower(): name for name in ("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md")}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: Any, **_: Any) -> Any:
    """Put the generated pages of docs/configuration/ into the navigation."""
    pages = sorted(page.name for page in (ROOT / "docs/configuration").glob("*.md") if page.name != "index.md")
    [reference] = [entry["Reference"] for entry in config["nav"] if "Reference" in entry]
    reference.append({"Configuration": [f"configuration/{name}" for name in ("index.md", *pages)]})
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the root's pages."""
    for page, name in FROM_ROOT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        # Seen from docs/, where the site has the page.
        text = LINK.sub(lambda link: f"[{link[1]}]({_from_docs(link[2])})", text)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the root's pages become links to the site's; other files outside docs/ are not on the site."""
    return LINK.sub(_on_site, markdown)


def _from_docs(target: str) -> str:
    if "://" in target or target.startswith("#"):
        return target
    return target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"


def _on_site(link: re.Match[str]) -> str:
    text, target = link[1], link[2]
    outside = target.removeprefix("../")
    if target == outside or (ROOT / "docs" / outside).exists():
        return link[0]
    return f"[{text}]({outside.lower()})" if outside in FROM_ROOT.values() else text
