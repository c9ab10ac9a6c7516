"""The tour as a document and as a notebook, made from the chapters' own source."""

import ast
import inspect
import json
from collections.abc import Callable
from typing import Any

from frostline.autograd.drawing import Drawing
from frostline.autograd.tour.chapters import CHAPTERS, tell_all
from frostline.autograd.tour.telling import Tour, cells_of, title_of
from frostline.autograd.tour.voices import Document

TITLE = "# A gentle introduction to autograd"
INTRODUCTION = (
    "This is the notebook that frostline grew from, as something that runs. `frostline tour` tells it in the terminal; "
    "`docs/autograd.md` and `docs/autograd.ipynb` are made from the same code by `scripts/publish_tour.py`, and a test "
    "fails where they differ from it. A ✓ marks a claim that was checked against the mathematics while this was made. "
    "The document leaves the imports out; the notebook has them.\n\n"
    "The same on a network of your own: `frostline graph` and `frostline gradients` take a run's overrides or a "
    "checkpoint. From Python, `frostline.autograd.draw(loss)` draws the graph of any tensor, `GradientFlow` (in "
    "`frostline.autograd.gradient_flow`) is a Lightning callback that logs what reaches each stage, and "
    "`check_gradient` (in `frostline.autograd.check`) checks a head or a loss against finite differences."
)
SETUP = """from frostline.autograd.tour import Tour
from frostline.autograd.tour.voices import Notebook

tour = Tour(voice=Notebook())  # weights=… takes a state dict of your own"""


def document() -> tuple[str, dict[str, Drawing]]:
    """Run the tour: (Markdown with code and output, pictures by name, linked as `figures/<name>.svg`)."""
    voice = Document()
    tell_all(Tour(voice=voice))
    return f"{TITLE}\n\n{INTRODUCTION}\n\n{voice.text()}", voice.pictures


def notebook() -> str:
    """The tour as a Jupyter notebook (nbformat 4.5) that has not run yet."""
    cells = [_cell("markdown", f"{TITLE}\n\n{INTRODUCTION}", 0), _cell("code", SETUP, 1)]
    for chapter in CHAPTERS:
        cells.append(_cell("markdown", f"## {title_of(chapter)}", len(cells)))
        cells.append(_cell("code", "\n".join(_imports(chapter)), len(cells)))
        for cell in cells_of(chapter):
            cells.append(_cell("markdown", cell.prose, len(cells)))
            if cell.code:
                cells.append(_cell("code", cell.code, len(cells)))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5},
        ensure_ascii=False,
        indent=1,
    )


def _cell(kind: str, source: str, number: int) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


def _imports(chapter: Callable[[Tour], None]) -> list[str]:
    module = inspect.getmodule(chapter)
    assert module is not None
    body = ast.parse(inspect.getsource(module)).body
    return [ast.unparse(statement) for statement in body if isinstance(statement, ast.Import | ast.ImportFrom)]
