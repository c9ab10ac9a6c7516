"""The tour as a document and as a notebook."""

import json
from typing import Any

from frostline.autograd.drawing import Drawing
from frostline.autograd.tour.renderers import Document
from frostline.autograd.tour.run import Tour, chapters

TITLE = "# A gentle introduction to autograd"
INTRODUCTION = (
    "This is the notebook that frostline grew from, as something that runs. `frostline tour` shows it in the terminal; "
    "`docs/autograd.md` and `docs/autograd.ipynb` are made from the same file by `scripts/publish_tour.py`, and a test "
    "fails where they differ from it. A ✓ marks a claim that was checked against the mathematics while this was made. "
    "The document leaves the imports out; the notebook has them.\n\n"
    "The same on a network of your own: `frostline graph` and `frostline gradients` take a run's overrides or a "
    "checkpoint. From Python, `frostline.autograd.draw(loss)` draws the graph of any tensor, `GradientFlow` (in "
    "`frostline.autograd.gradient_flow`) is a Lightning callback that logs what reaches each stage, and "
    "`check_gradient` (in `frostline.autograd.check`) checks a head or a loss against finite differences."
)
SETUP = """from frostline.autograd.tour import Notebook, Tour

tour = Tour(Notebook())  # weights=… takes a state dict of your own"""


def document() -> tuple[str, dict[str, Drawing]]:
    """Run the tour: (Markdown with code and output, pictures by name, linked as `figures/<name>.svg`)."""
    renderer = Document()
    Tour(renderer).run()
    return f"{TITLE}\n\n{INTRODUCTION}\n\n{renderer.text()}", renderer.pictures


def notebook() -> str:
    """The tour as a Jupyter notebook (nbformat 4.5) that has not run yet."""
    sources = [("markdown", f"{TITLE}\n\n{INTRODUCTION}"), ("code", SETUP)]
    for title, cells in chapters().items():
        sources.append(("markdown", f"## {title}"))
        for cell in cells:
            sources += [("markdown", cell.prose), ("code", cell.code)]
    numbered = [_cell(kind, text, number) for number, (kind, text) in enumerate(part for part in sources if part[1])]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps(
        {"cells": numbered, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5},
        ensure_ascii=False,
        indent=1,
    )


def _cell(kind: str, source: str, number: int) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell
