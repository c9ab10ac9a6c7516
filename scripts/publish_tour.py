"""Write docs/autograd.md, docs/autograd.ipynb (run, with its outputs) and docs/figures/autograd-*.svg from the tour.

Usage: python scripts/publish_tour.py
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import v4
from traitlets.config import Config

from frostline.autograd.drawing import Drawing
from frostline.autograd.tour.renderers import Kind
from frostline.autograd.tour.run import Tour, chapters

DOCS = Path(__file__).parents[1] / "docs"
INTRODUCTION = (
    "# A gentle introduction to autograd\n\n"
    "This is the notebook that frostline grew from, as something that runs. `frostline tour` shows it in the terminal; "
    "`docs/autograd.md` and `docs/autograd.ipynb` are made from the same file by `scripts/publish_tour.py`, and a test "
    "fails where they differ from it. A ✓ marks a claim that was checked against the mathematics while this was made. "
    "The document leaves the imports out; the notebook has them.\n\n"
    "The same on a network of your own: `frostline graph` and `frostline gradients` take a run's overrides or a "
    "checkpoint. From Python, `frostline.autograd.draw(loss)` draws the graph of any tensor, `GradientFlow` (in "
    "`frostline.autograd.gradient_flow`) is a Lightning callback that logs what reaches each stage, and "
    "`check_gradient` (in `frostline.autograd.check`) checks a head or a loss against finite differences."
)
SETUP = """from frostline.autograd.tour import Tour, notebook

tour = Tour(notebook)  # weights=… takes a state dict of your own"""


def document() -> tuple[str, dict[str, Drawing]]:
    """Run the tour: (Markdown with code and output, pictures by name, linked as `figures/<name>.svg`)."""
    parts, pictures = [INTRODUCTION], {}

    def render(kind: Kind, text: str, drawing: Drawing | None) -> None:
        if kind in ("value", "claim"):
            begun = parts.pop().removesuffix("\n```") if parts[-1].startswith("```text") else "```text"
            parts.append(f"{begun}\n{'✓ ' if kind == 'claim' else ''}{text}\n```")
        elif drawing is not None:
            pictures[text] = drawing
            parts.append(f"![{drawing.summary}](figures/{text}.svg)")
        else:
            parts.append({"title": f"## {text}", "code": f"```python\n{text}\n```"}.get(kind, text))

    Tour(render).run()
    return "\n\n".join(parts) + "\n", pictures


def pages() -> Any:
    """The tour as a Jupyter notebook that has not run yet."""
    cells = [v4.new_markdown_cell(INTRODUCTION), v4.new_code_cell(SETUP)]
    for title, parts in chapters().items():
        cells.append(v4.new_markdown_cell(f"## {title}"))
        for part in parts:
            cells += [v4.new_markdown_cell(part.prose)] if part.prose else []
            cells += [v4.new_code_cell(part.code)] if part.code else []
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # random ones otherwise
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def run_pages(notebook: Any, folder: Path) -> None:
    """Run a notebook in place, through files in a folder: TCP ports would be open to other users of the machine."""
    sockets = Config(AsyncKernelManager={"transport": "ipc", "ip": str(folder / "kernel")})
    NotebookClient(notebook, timeout=300, kernel_name="python3", config=sockets).execute()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Random weights on every machine: the documents must not depend on what torchvision has cached here.
        os.environ["TORCH_HOME"] = folder
        text, pictures = document()
        (DOCS / "autograd.md").write_text(text, encoding="utf-8")
        for name, drawing in pictures.items():
            drawing.save(DOCS / "figures" / f"{name}.svg")
        notebook = pages()
        run_pages(notebook, Path(folder))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran, to the microsecond
    nbformat.write(notebook, DOCS / "autograd.ipynb")


if __name__ == "__main__":
    main()
