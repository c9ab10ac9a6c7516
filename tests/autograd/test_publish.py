"""Tour, document and notebook are one: each is compared with what the chapters' source and their run give."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from scripts.publish_tour import document, pages, run_pages

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]\d+)?")


def same(text: str, other: str) -> bool:
    """Equal but for the last digits of numbers, which depend on the processor; errors below 1e-9 count as nothing."""
    if NUMBER.sub("#", text).split() != NUMBER.sub("#", other).split():
        return False
    pairs = zip(NUMBER.findall(text), NUMBER.findall(other), strict=True)
    numbers = [(float(one.replace(",", "")), float(two.replace(",", ""))) for one, two in pairs]
    return all(abs(one - two) <= max(1e-3 * abs(one), 1e-3) for one, two in numbers)


def test_comparison_notices_another_word_and_another_number():
    assert same("error 1.1e-11, 56.0001", "error 3.0e-12, 56.0002")
    assert not same("Q = 56", "Q = 57")
    assert not same("Q = 56", "P = 56")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("empty")))
        return document()


def test_the_document_is_what_the_tour_says(published):
    text, pictures = published
    assert same((DOCS / "autograd.md").read_text(), text), "run scripts/publish_tour.py"
    for name, drawing in pictures.items():
        assert same((DOCS / "figures" / f"{name}.svg").read_text(), drawing._repr_svg_()), "run scripts/publish_tour.py"
        assert f"(figures/{name}.svg)" in text


def test_the_notebook_has_the_tours_cells():
    written, expected = json.loads((DOCS / "autograd.ipynb").read_text()), pages()
    assert written["nbformat"] == expected["nbformat"] == 4
    sources = [
        [(cell["cell_type"], "".join(cell["source"])) for cell in found["cells"]] for found in (written, expected)
    ]
    assert sources[0] == sources[1], "run scripts/publish_tour.py"


def test_the_notebook_runs_and_prints_what_it_says_it_printed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    written = nbformat.read(DOCS / "autograd.ipynb", as_version=4)
    again = nbformat.read(DOCS / "autograd.ipynb", as_version=4)
    run_pages(again, tmp_path)
    for before, after in zip(written.cells, again.cells, strict=True):
        assert same(printed(before), printed(after)), "run scripts/publish_tour.py"
    ticks = sum(printed(cell).count("✓") for cell in again.cells)
    assert ticks == document()[0].count("\n✓")
    assert (
        sum("image/svg+xml" in output.get("data", {}) for cell in again.cells for output in cell.get("outputs", []))
        == 2
    )


def printed(cell) -> str:
    """Standard output; a cell that writes to standard error has gone wrong."""
    outputs = cell.get("outputs", [])
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    return "".join(output.get("text", "") for output in outputs)
