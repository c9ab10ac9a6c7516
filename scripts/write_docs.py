"""Write the parts of the docs that come from the code: configuration/, api.md, files.md and two tables.

python scripts/write_docs.py           writes them
python scripts/write_docs.py --check   exit code 1 if one is out of date
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

import frostline
from frostline.commands.config_files import group_options, with_defaults
from frostline.commands.help import default_config, key_rows
from frostline.config.commands import COMMANDS
from frostline.config.key_text import fields_of

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "docs/configuration"
LISTED = ("train.py", "conf", "src/frostline", "scripts", "examples")
NOTE = "<!-- Written by `make docs` from the code; do not edit. -->"
EXAMPLES = "A file to copy lies in `examples/`; `--config-dir` names the folder of yours."


def configuration() -> dict[Path, str]:
    """The pages of docs/configuration/: one for the commands, one for each group."""
    options = group_options(None)
    groups = {
        group: (name, described) for name, command in COMMANDS.items() for group, described in command.groups().items()
    }
    index = [NOTE, "# Configuration", "", "Every key has a page for its group:", ""]
    index += [f"- [`{group}`]({group}.md): {_words(options[group])}" for group in groups]
    selectors = dict.fromkeys(group for command in COMMANDS.values() for group in command.selectors)
    index += [
        f"- [`{group}`]({group}.md), which sets keys of other groups: {_words(options[group])}" for group in selectors
    ]
    for name, command in COMMANDS.items():
        index += ["", f"## `frostline {name}`", "", command.__doc__ or "", ""]
        rows = list(key_rows(command.top_keys(), default_config(name)))
        index += _table(("key", "default", "type", "meaning"), map(_row, rows)) if rows else ["It has no keys."]
        if command.groups():
            index += ["", f"Groups: {', '.join(f'[`{group}`]({group}.md)' for group in command.groups())}"]
    pages = {CONFIGURATION / "index.md": _text(index)}
    for group, (command, described) in groups.items():
        pages[CONFIGURATION / f"{group}.md"] = _group_page(command, group, options[group], described)
    for group in selectors:
        parts = (_selector_text(group, option) for option in options[group])
        pages[CONFIGURATION / f"{group}.md"] = _text([NOTE, f"# `{group}`", *parts])
    return pages


def _selector_text(group: str, option: str) -> str:
    """A file of conf/: its comment as text, with a list of the lines that begin with a word and a colon; the rest."""
    lines = (ROOT / f"conf/{group}/{option}.yaml").read_text().splitlines()
    comment = "\n".join(line[2:] for line in lines if line.startswith("# ") and "@package" not in line)
    listed = re.sub(r"^(?=\w+: )", "- ", comment, flags=re.MULTILINE).replace("\n- ", "\n\n- ", 1)
    body = "\n".join(line for line in lines if not line.startswith("# "))
    return f"\n## `{group}={option}`\n\n{listed}\n\n```yaml\n{body}\n```"


def _group_page(command: str, group: str, options: Iterable[str], described: Any) -> str:
    """One section for each schema of a group: its keys, and the values in which its options differ."""
    sections: dict[Any, dict[str, list[tuple[str, str, str, str]]]] = {}
    for option in options:
        node = _node(command, group, option)
        schema = described.schema_of(node)
        assert schema is not None, f"{group}={option}"
        rows = [row for row in key_rows(fields_of(schema), node, prefix=f"{group}.") if row[0] != f"{group}.name"]
        sections.setdefault(schema, {})[option] = rows
    lines = [NOTE, f"# `{group}`"]
    for schema, found in sections.items():
        text, names = (schema.__doc__ or "").strip(), ", ".join(f"`{group}={option}`" for option in found)
        # A heading of a dozen options is no heading.
        title, first = (names, text) if len(found) <= 2 else (text.rstrip("."), names)
        lines += ["", f"## {title}", "", first]
        defaults = {option: {row[0]: row[2] for row in rows} for option, rows in found.items()}
        kinds = {row[0]: row for rows in found.values() for row in rows}
        differing = [key for key in kinds if len({values.get(key) for values in defaults.values()}) > 1]
        if not kinds:
            lines += ["", "It has no keys."]
            continue
        rows = [row if key not in differing else (*row[:2], None, row[3]) for key, row in kinds.items()]
        lines += ["", *_table(("key", "default", "type", "meaning"), map(_row, rows))]
        if differing:
            titles = ("option", *(f"`{key}`" for key in differing))
            values = ((f"`{option}`", *(_code(own.get(key)) for key in differing)) for option, own in defaults.items())
            lines += ["", *_table(titles, values)]
    if described.own is not None:
        lines += ["", f"## `{group}` of your own", "", inspect.getdoc(described.own) or "", "", EXAMPLES, ""]
        rows = list(key_rows(fields_of(described.own), {}, prefix=f"{group}."))
        lines += _table(("key", "default", "type", "meaning"), map(_row, rows))
    return _text(lines)


def file_list() -> str:
    """docs/files.md: the path of each file, and the first line of its docstring or leading comment."""
    lines = [NOTE, "# Every file", ""]
    for top in LISTED:
        path = ROOT / top
        files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".py", ".sbatch"))
        for file in files:
            summary = _summary(file)
            if summary:
                lines.append(f"- `{file.relative_to(ROOT)}`: {summary}")
    return _text(lines)


def api() -> str:
    """docs/api.md: the public names, by package; mkdocstrings puts the signature and docstring in the place of each."""
    lines = [NOTE, "# Python API", "", "Everything here is imported from `frostline`:", ""]
    lines += ["```python", "from frostline import FreezePolicy, FreezingSchedule", "```"]
    for package, modules in groupby(frostline._MODULES, key=lambda module: module.partition(".")[0]):
        names = (name for module in modules for name in frostline._MODULES[module])
        lines += ["", f"## {package.capitalize()}", *(f"\n::: frostline.{name}" for name in names)]
    return _text(lines)


def benchmarks() -> str:
    """BENCHMARKS.md with the wall times of docs/benchmarks-history.md: a table for each number of images."""
    history = (ROOT / "docs/benchmarks-history.md").read_text()
    before, begin, rest = (ROOT / "BENCHMARKS.md").read_text().partition("scripts/write_docs.py -->\n")
    text = "\n\n".join(wall_time_tables(history))
    return f"{before}{begin}{text}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"


def wall_time_tables(history: str) -> Iterable[str]:
    """A table for each of the contest's sections, a row for each tool; then what the workloads are."""
    workloads: dict[str, str] = {}
    for size, section in re.findall(r"^<!-- contest(\S*) -->$(.*?)^<!-- /contest", history, re.DOTALL | re.MULTILINE):
        seconds: dict[str, dict[str, str]] = {}
        columns = []
        for name, title, part in re.findall(r"^### (W\w+): (.*?)$(.*?)(?=^#|\Z)", section, re.DOTALL | re.MULTILINE):
            workloads[name] = title
            columns.append(name)
            for tool, time in re.findall(r"^\| (?!\|)(.*?) \| ([\d.,]+) \|", part, re.MULTILINE):
                seconds.setdefault(tool, {})[name] = time
        rows = ((tool, *(times.get(name, "") for name in columns)) for tool, times in seconds.items())
        images = f", {size[1:].replace('-', ' + ')} images" if size else ""
        yield "\n".join(_table((f"wall seconds{images}", *columns), rows))
    yield "\n".join(f"- {name}: {title}" for name, title in workloads.items())


def _summary(file: Path) -> str:
    text = file.read_text()
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return next(line[2:] for line in text.splitlines()[1:] if line.startswith("# "))


def _node(command: str, group: str, option: str) -> Mapping[str, Any]:
    file = ROOT / f"conf/{group}/{option}.yaml"
    text = file.read_text() if file.exists() else f"name: {option}"
    if "defaults:" not in text and "${" not in text:  # composing takes a third of a second
        return with_defaults(f"{group}/*", yaml.safe_load(text) or {})
    node = default_config(command, (f"{group}={option}",)).get(group)
    return node if isinstance(node, Mapping) else {}


def _row(row: tuple[str, str, str | None, str]) -> tuple[str, ...]:
    key, kind, default, text = row
    return f"`{key}`", "depends on the option" if default is None else _code(default), kind, text


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (titles, ("---",) * len(titles), *rows)]


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def readme() -> str:
    """The README with the table of docs/freezing.md, without its last column."""
    source = (ROOT / "docs/freezing.md").read_text()
    table = source.partition("scripts/freezing/peers.py -->\n")[2].partition("<!-- peers end -->")[0]
    shorter = "\n".join("|".join(line.split("|")[:4]) + "|" for line in table.splitlines())
    before, begin, rest = (ROOT / "README.md").read_text().partition("scripts/write_docs.py -->\n")
    return f"{before}{begin}{shorter}\n<!-- peers end -->{rest.partition('<!-- peers end -->')[2]}"


def main() -> None:
    docs = ROOT / "docs"
    wanted = {docs / "files.md": file_list(), docs / "api.md": api(), **configuration()}
    wanted |= {ROOT / "README.md": readme(), ROOT / "BENCHMARKS.md": benchmarks()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    left_over = sorted(set(CONFIGURATION.glob("*.md")) - set(wanted))
    if "--check" in sys.argv[1:]:
        if stale or left_over:
            names = ", ".join(str(path.relative_to(ROOT)) for path in (*stale, *left_over))
            sys.exit(f"out of date, run `make docs`: {names}")
        return
    CONFIGURATION.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(wanted[path])
        print(f"wrote {path.relative_to(ROOT)}")
    for path in left_over:
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
