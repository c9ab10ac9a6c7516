"""The voices of the tour: a terminal in colour, a Markdown document, a notebook."""

from typing import TextIO

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from frostline.autograd.drawing import Drawing

READABLE = 100  # columns; longer lines of prose tire


class Terminal:
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

    def value(self, name: str, text: str) -> None:
        line = Text("→ ", style="dim") + Text(f"{name} = {text}" if name else text, style="yellow")
        self.console.print(Padding(line, (0, 0, 0, 4)))

    def claim(self, text: str) -> None:
        line = Text("✓ ", style="bold green") + Text(text, style="green")
        self.console.print(Padding(line, (0, 0, 0, 4)), width=self._width)

    def picture(self, name: str, drawing: Drawing) -> None:
        self.console.print(
            Padding(Text(f"▣ a picture: {drawing.summary}", style="cyan"), (0, 0, 0, 4)), width=self._width
        )


def terminal(file: TextIO | None = None, *, width: int | None = None) -> Terminal:
    """A voice for the standard output, or for a file; as wide as the terminal unless told."""
    return Terminal(Console(file=file, width=width, highlight=False))


class Document:
    """Gathers Markdown; pictures are kept by name and linked as `figures/<name>.svg`."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.pictures: dict[str, Drawing] = {}
        self._output: list[str] = []

    def title(self, text: str) -> None:
        self._flush()
        self.parts.append(f"## {text}")

    def prose(self, text: str) -> None:
        self._flush()
        self.parts.append(text)

    def code(self, text: str) -> None:
        self.parts.append(f"```python\n{text}\n```")

    def value(self, name: str, text: str) -> None:
        self._output.append(f"{name} = {text}" if name else text)

    def claim(self, text: str) -> None:
        self._output.append(f"✓ {text}")

    def picture(self, name: str, drawing: Drawing) -> None:
        self._flush()
        self.pictures[name] = drawing
        self.parts.append(f"![{drawing.summary}](figures/{name}.svg)")

    def text(self) -> str:
        self._flush()
        return "\n\n".join(self.parts) + "\n"

    def _flush(self) -> None:
        if self._output:
            self.parts.append("```text\n" + "\n".join(self._output) + "\n```")
            self._output = []


class Notebook:
    """Prints what a code cell computes; paragraphs and code are the notebook's own cells."""

    def title(self, text: str) -> None: ...

    def prose(self, text: str) -> None: ...

    def code(self, text: str) -> None: ...

    def value(self, name: str, text: str) -> None:
        print(f"{name} = {text}" if name else text)

    def claim(self, text: str) -> None:
        print(f"✓ {text}")

    def picture(self, name: str, drawing: Drawing) -> None:
        from IPython.display import SVG, display  # only a notebook has it

        display(SVG(data=drawing.svg))
