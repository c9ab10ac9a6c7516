"""Write what the docs say about the code from the code: docs/configuration.md and the README's list of files.

python scripts/write_docs.py           writes them
python scripts/write_docs.py --check   exit code 1 if one is out of date
"""

import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frostline.commands.help import default_config, key_rows
from frostline.commands.overrides import group_options
from frostline.config.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
LISTED = ("train.py", "conf", "src/frostline", "scripts")
BEGIN, END = "<!-- files: written by scripts/write_docs.py -->", "<!-- end of files -->"
# Without these a group's option would not compose; they are the user's to give.
REQUIRED = {"file": ("freeze.path=policy.yaml",)}


def configuration() -> str:
    """docs/configuration.md: every key of every option of every group of every command."""
    lines = [
        "# Every key",
        "",
        "Written by `make docs` from the schema and the YAML files in `conf/`; do not edit.",
        "",
    ]
    options, seen = group_options(None), set()
    for name, command in COMMANDS.items():
        defaults = default_config(name)
        lines += [f"## `frostline {name}`", "", command.help, "", *_table(key_rows(command.keys, defaults)), ""]
        for group, described in command.groups.items():
            if group in seen:
                lines += [f"`{group}=…`: see above.", ""]
                continue
            seen.add(group)
            lines += [f"### `{group}`", ""]
            tables: dict[str, list[str]] = {}
            for option in options[group]:
                node = _node(name, group, option)
                schema = described.schema_of(node)
                assert schema is not None, f"{group}={option}"
                rows = [row for row in key_rows(schema, node, prefix=f"{group}.") if row[0] != f"{group}.name"]
                table = "\n".join(_table(rows)) if rows else "no keys."
                tables.setdefault(f"{(schema.__doc__ or '').strip()}\n\n{table}", []).append(option)
            for text, named in tables.items():
                lines += [f"{', '.join(f'`{group}={option}`' for option in named)}: {text}", ""]
        for group in command.selectors:
            lines += [f"### `{group}`", "", f"{', '.join(f'`{group}={option}`' for option in options[group])}", ""]
    return "\n".join(lines).rstrip() + "\n"


def file_list() -> str:
    """One line a file: its path and the first line of its docstring, or of its leading comment."""
    lines = []
    for top in LISTED:
        path = ROOT / top
        files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".py", ".sbatch"))
        for file in files:
            summary = _summary(file)
            if summary:
                lines.append(f"- `{file.relative_to(ROOT)}`: {summary}")
    return "\n".join(lines)


def _summary(file: Path) -> str:
    text = file.read_text()
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return next(line[2:] for line in text.splitlines()[1:] if line.startswith("# "))


def _node(command: str, group: str, option: str) -> Mapping[str, Any]:
    node = default_config(command, (f"{group}={option}", *REQUIRED.get(option, ()))).get(group)
    return node if isinstance(node, Mapping) else {}


def _table(rows: Any) -> list[str]:
    lines = ["| key | default | type | meaning |", "|---|---|---|---|"]
    for key, kind, default, text in rows:
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{key}` | {shown} | {kind} | {text} |")
    return lines


def main() -> None:
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = {
        ROOT / "docs/configuration.md": configuration(),
        readme: f"{before}{BEGIN}\n{file_list()}\n{END}{after}",
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        if stale:
            sys.exit(f"out of date, run `make docs`: {', '.join(str(path.relative_to(ROOT)) for path in stale)}")
        return
    for path in stale:
        path.write_text(wanted[path])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
