"""Run the tour: `chapters.md` holds paragraphs and the code after each, which is shown, run and checked cell by cell.

The code calls `tour.show` to print a value, `tour.check` for a claim that must hold and `tour.draw` for a picture.
Terminal, document and notebook (`scripts/publish_tour.py`) are made from that one file, so they cannot differ.
"""

import ast
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torchvision.models import ResNet18_Weights, resnet18

from frostline.autograd.drawing import Drawing
from frostline.autograd.tour.renderers import Renderer
from frostline.models.saved_file import read_plain

SEED = 0


class TourFailure(AssertionError):  # noqa: N818 - a claim of the tour failed, which it names
    """A value of the tour contradicts the mathematics."""


@dataclass(frozen=True)
class Cell:
    """A paragraph and the code after it; a chapter's first cell has no paragraph and imports what the others use."""

    prose: str
    code: str

    @property
    def shown(self) -> str:
        """The code without imports and without the calls that print and check."""
        lines = self.code.splitlines()
        for statement in reversed(ast.parse(self.code).body):
            if _hidden(statement):
                del lines[statement.lineno - 1 : statement.end_lineno]
        return "\n".join(lines).strip()


def chapters() -> dict[str, list[Cell]]:
    """Title -> cells, in the notebook's order."""
    text = files("frostline.autograd.tour").joinpath("chapters.md").read_text(encoding="utf-8")
    found = {}
    for chapter in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = chapter.partition("\n")
        parts = re.split(r"^```python\n(.*?)\n```$", body, flags=re.MULTILINE | re.DOTALL)
        pairs = zip(parts[::2], parts[1::2], strict=False)
        found[title] = [Cell(" ".join(prose.split()), code) for prose, code in pairs]
    return found


class Tour:
    """Runs chapters and hands what they show to a renderer.

    weights: a ResNet-18 state dict or the file of one. Without it: ImageNet's if torchvision has them in its cache,
    random ones otherwise; nothing is downloaded.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a state dict of a ResNet-18 with 1,000 classes.
    """

    def __init__(self, renderer: Renderer, *, weights: Mapping[str, torch.Tensor] | str | Path | None = None) -> None:
        self.renderer = renderer
        self.weights, self.weights_are = _resolve(weights)

    def run(self, *titles: str) -> None:
        """Run these chapters, or all; seconds on a CPU. Each cell's code is rendered before it runs."""
        found = chapters()
        for title in titles or found:
            self.renderer("title", title, None)
            scope = {"tour": self}
            for cell in found[title]:
                if cell.prose:
                    self.renderer("prose", cell.prose, None)
                if cell.shown:
                    self.renderer("code", cell.shown, None)
                exec(cell.code, scope)  # noqa: S102 - the package's own file

    def show(self, name: str, value: object) -> None:
        """Print a value: `name = value`."""
        text = textwrap.dedent(repr(value)) if isinstance(value, torch.Tensor) else str(value)
        self.renderer("value", f"{name} = {text}", None)

    def check(self, claim: str, holds: bool) -> None:
        """State a claim that has just been computed.

        Raises:
            TourFailure: it does not hold.
        """
        if not holds:
            raise TourFailure(f"The tour's claim does not hold: {claim}.")
        self.renderer("claim", claim, None)

    def draw(self, name: str, drawing: Drawing) -> None:
        """Show a picture; a document keeps it in a file of that name."""
        self.renderer("picture", name, drawing)


def error_of(call: Callable[[], object]) -> str:
    """The first sentence of the error that a call raises.

    Raises:
        TourFailure: it raises none.
    """
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return str(error).split(". ")[0].split("\n")[0].rstrip(".") + "."
    raise TourFailure("The tour expected an error here, and there was none.")


def all_close(tensors: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> bool:
    """Whether all pairs agree to 1e-5, relative or absolute."""
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(tensors, expected, strict=True))


def _hidden(statement: ast.stmt) -> bool:
    """Whether a statement imports, calls the tour, or is a loop over such calls."""
    if isinstance(statement, ast.For):
        return all(_hidden(inner) for inner in statement.body)
    return isinstance(statement, ast.Import | ast.ImportFrom) or ast.unparse(statement).startswith("tour.")


def _resolve(weights: Mapping[str, torch.Tensor] | str | Path | None) -> tuple[Mapping[str, torch.Tensor], str]:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name
    if weights is None and not cached.is_file():
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            return resnet18(weights=None).state_dict(), "random (ImageNet's are not in torchvision's cache)"
    if isinstance(weights, Mapping):
        state, origin = weights, "passed in"
    else:
        path = Path(weights or cached)
        if not path.is_file():
            raise FileNotFoundError(f"There are no weights at {path}.")
        try:
            state, origin = read_plain(path), f"from {path.name}"
        except ValueError as error:
            raise ValueError(f"weights: `{path}` cannot be read as a state dict: {error}") from error
    try:
        resnet18(weights=None).load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            "The tour's weights must be the state dict of a torchvision ResNet-18 with 1,000 classes; "
            f"these are not: {str(error).splitlines()[-1].strip()}"
        ) from error
    return state, origin
