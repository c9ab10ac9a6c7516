"""Write docs/autograd.md, docs/autograd.ipynb (run, with its outputs) and docs/figures/autograd-*.svg from the tour.

Usage: python scripts/publish_tour.py
"""

import os
import tempfile
from pathlib import Path

# Random weights on every machine: the documents must not depend on what torchvision has cached here.
os.environ["TORCH_HOME"] = tempfile.mkdtemp()

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

from frostline.autograd.tour.publish import document, notebook

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    text, pictures = document()
    (DOCS / "autograd.md").write_text(text, encoding="utf-8")
    for name, drawing in pictures.items():
        drawing.save(DOCS / "figures" / f"{name}.svg")
    pages = nbformat.reads(notebook(), as_version=4)
    # Through files, not TCP ports: those would be open to other users of the machine.
    sockets = {"transport": "ipc", "ip": str(Path(os.environ["TORCH_HOME"]) / "kernel")}
    NotebookClient(pages, timeout=300, kernel_name="python3", config=Config(AsyncKernelManager=sockets)).execute()
    for cell in pages.cells:
        cell.metadata.pop("execution", None)  # when each cell ran, to the microsecond
    nbformat.write(pages, DOCS / "autograd.ipynb")


if __name__ == "__main__":
    main()
