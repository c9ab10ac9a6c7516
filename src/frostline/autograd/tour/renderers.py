"""The tour's renderers: each is called with the kind of a part, its text and, of a picture, the drawing."""

from collections.abc import Callable
from typing import Literal, TextIO

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from frostline.autograd.drawing import Drawing

READABLE = 100  # columns of prose at most

# A value: what the code has computed. A claim: one that was checked. The text of a picture is the name of its file.
Kind = Literal["title", "prose", "code", "value", "claim", "picture"]
Renderer = Callable[[Kind, str, Drawing | None], None]


def terminal(file: TextIO | None = None, *, width: int | None = None) -> Renderer:
    """Prose, code in colour, values indented, claims with a tick; by default to the standard output in its width."""
    console = Console(file=file, width=width, highlight=False)

    def render(kind: Kind, text: str, drawing: Drawing | None) -> None:
        if kind == "title":
            console.print()
            console.rule(f"[bold]{text}", align="left", style="cyan")
            return
        if kind == "prose":
            part = Padding(Markdown(text), (1, 0, 0, 0))
        elif kind == "code":
            syntax = Syntax(text, "python", theme="ansi_dark", background_color="default", word_wrap=True)
            part = Padding(syntax, (1, 0, 0, 4))
        else:
            lines = {
                "value": Text.assemble(("→ ", "dim"), (text, "yellow")),
                "claim": Text.assemble(("✓ ", "bold green"), (text, "green")),
                "picture": Text(f"▣ a picture: {drawing.summary if drawing else text}", style="cyan"),
            }
            part = Padding(lines[kind], (0, 0, 0, 4))
        console.print(part, width=min(console.width, READABLE))

    return render


def notebook(kind: Kind, text: str, drawing: Drawing | None) -> None:
    """Prints what a code cell computes; paragraphs and code are the notebook's own cells."""
    if drawing is not None:
        from IPython.display import SVG, display  # only a notebook has it

        display(SVG(data=drawing._repr_svg_()))
    elif kind in ("value", "claim"):
        print(f"✓ {text}" if kind == "claim" else text)
