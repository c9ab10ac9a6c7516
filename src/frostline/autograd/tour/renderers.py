"""The tour's renderers: a terminal in colour, a Markdown document, a notebook."""

from typing import TextIO

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from frostline.autograd.drawing import Drawing

READABLE = 100  # columns of prose at most


class Renderer:
    """Receives the parts of the tour in their order; a method that is not overridden renders nothing."""

    def title(self, text: str) -> None:
        """A chapter's title."""

    def prose(self, text: str) -> None:
        """A paragraph, in Markdown."""

    def code(self, text: str) -> None:
        """The code that runs next."""

    def output(self, text: str, *, checked: bool = False) -> None:
        """A value that the code has computed, or a claim that was checked."""

    def picture(self, name: str, drawing: Drawing) -> None:
        """A picture, with the name of a file without its ending."""


class Terminal(Renderer):
    """Prose, code in colour, values indented, claims with a tick."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._width = min(console.width, READABLE)

    def title(self, text: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left", style="cyan")

    def prose(self, text: str) -> None:
        self.console.print()
        self.console.print(Markdown(text), width=self._width)

    def code(self, text: str) -> None:
        syntax = Syntax(text, "python", theme="ansi_dark", background_color="default", word_wrap=True)
        self.console.print(Padding(syntax, (1, 0, 0, 4)), width=self._width)

    def output(self, text: str, *, checked: bool = False) -> None:
        line = Text("✓ ", style="bold green") if checked else Text("→ ", style="dim")
        self._indented(line + Text(text, style="green" if checked else "yellow"))

    def picture(self, name: str, drawing: Drawing) -> None:
        self._indented(Text(f"▣ a picture: {drawing.summary}", style="cyan"))

    def _indented(self, text: Text) -> None:
        self.console.print(Padding(text, (0, 0, 0, 4)), width=self._width)


def terminal(file: TextIO | None = None, *, width: int | None = None) -> Terminal:
    """A renderer for the standard output or a file; by default as wide as the terminal."""
    return Terminal(Console(file=file, width=width, highlight=False))


class Document(Renderer):
    """Collects Markdown; pictures are kept by name and linked as `figures/<name>.svg`."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.pictures: dict[str, Drawing] = {}

    def title(self, text: str) -> None:
        self._parts.append(f"## {text}")

    def prose(self, text: str) -> None:
        self._parts.append(text)

    def code(self, text: str) -> None:
        self._parts.append(f"```python\n{text}\n```")

    def output(self, text: str, *, checked: bool = False) -> None:
        begun = self._parts.pop().removesuffix("\n```") if self._parts[-1].startswith("```text") else "```text"
        self._parts.append(f"{begun}\n{'✓ ' if checked else ''}{text}\n```")

    def picture(self, name: str, drawing: Drawing) -> None:
        self.pictures[name] = drawing
        self._parts.append(f"![{drawing.summary}](figures/{name}.svg)")

    def text(self) -> str:
        return "\n\n".join(self._parts) + "\n"


class Notebook(Renderer):
    """Prints what a code cell computes; paragraphs and code are the notebook's own cells."""

    def output(self, text: str, *, checked: bool = False) -> None:
        print(f"{'✓ ' if checked else ''}{text}")

    def picture(self, name: str, drawing: Drawing) -> None:
        from IPython.display import SVG, display  # only a notebook has it

        display(SVG(data=drawing.svg))
