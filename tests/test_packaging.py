"""The wheel holds what the code imports."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_under_src_is_listed_for_the_wheel() -> None:
    packages = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert packages is not None
    listed = set(re.findall(r'"([\w.]+)"', packages.group(1)))
    found = {".".join(file.parent.relative_to(ROOT / "src").parts) for file in (ROOT / "src").rglob("__init__.py")}
    assert listed == found | {"frostline.conf"}


def test_the_malicious_lightning_releases_are_excluded() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert "!=2.6.2" in text
    assert "!=2.6.3" in text


def test_the_constraints_pin_every_dependency_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.match(r"[A-Za-z0-9._-]+==[^/:]+( ; .*)?$", line) for line in lines)
    pinned = {line.partition("==")[0].lower() for line in lines}
    wanted = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert wanted is not None
    names = {name.lower() for name in re.findall(r'^  "([A-Za-z0-9._-]+)', wanted.group(1), re.MULTILINE)}
    assert names
    assert names <= pinned
