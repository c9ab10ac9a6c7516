"""README.md and docs/: generated parts are current, links lead somewhere, every command is one that a test runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import PAGES, README, ROOT, commands, name_of
from tests.preloaded import run as run_preloaded

RUN_BY_CI = ("make train", "make test")
# Run by tests/integration/test_docs_commands.py.
PROGRAMS = ("python train.py", "frostline ", "torchrun ")
# Run as a whole, in order, by the same file.
IN_ORDER = ROOT / "docs/your-photos.md"
# Run elsewhere: by CI, tests/commands/test_completion.py, tests/integration/test_slurm.py and the tests of the scripts.
ELSEWHERE = ("make ", 'eval "$(frostline -sc install=bash)"', "sbatch ", "OMP_NUM_THREADS=1 python scripts/")


def test_the_readme_begins_with_the_two_commands_that_ci_runs_as_typed() -> None:
    assert tuple(commands(README)[:2]) == RUN_BY_CI
    assert set(RUN_BY_CI) <= set((ROOT / ".ci/run").read_text().splitlines())


@pytest.mark.parametrize("page", [page for page in PAGES if page != IN_ORDER], ids=name_of)
def test_every_command_of_a_page_is_run_by_a_test(page: Path) -> None:
    assert [line for line in commands(page) if not line.startswith((*PROGRAMS, *ELSEWHERE))] == []


def test_every_script_in_a_command_exists() -> None:
    scripts = {
        word for page in PAGES for line in commands(page) for word in line.split() if word.startswith("scripts/")
    }
    assert scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_generated_docs_are_up_to_date(tmp_path: Path) -> None:
    done = run_preloaded([sys.executable, "scripts/write_docs.py", "--check"], cwd=ROOT, output=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_test_that_the_faq_names_exists() -> None:
    text = (ROOT / "docs/faq.md").read_text()
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    names = set(re.findall(r"`(test_\w+)`", text))
    tests = "\n".join((ROOT / file).read_text() for file in files)
    defined = set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
    assert names
    assert names - defined == set()
    assert text.count("\n## ") == len(re.findall(r"^Tests?: ", text, re.MULTILINE))


def test_contributing_names_every_package_and_module_and_no_other() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    source = ROOT / "src/frostline"
    tree = text.partition("src/frostline/\n")[2].partition("scripts/ ")[0]
    named = set(re.findall(r"(\w+(?:/|\.py))(?=[ :,])", tree))
    packages = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    assert named == packages | {path.name for path in source.glob("[!_]*.py")}
    paths = re.findall(r"`((?:src|conf|docs|mkdocs)[\w./]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readmes_tree_names_every_folder_at_the_top() -> None:
    tree = README.read_text().partition("## Where is what\n")[2].partition("## ")[0]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.partition("/")[0] + "/" for line in tracked.splitlines() if "/" in line and line[0] != "."}
    assert {name.removesuffix("frostline/") for name in re.findall(r"^(\w\S*/)", tree, re.MULTILINE)} == folders
