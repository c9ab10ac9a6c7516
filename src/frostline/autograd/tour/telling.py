"""How the tour is told: chapters are functions whose code is shown, run and checked, cell by cell.

A chapter takes a `Tour`. `tour.say("…")` begins a cell with a paragraph; the statements up to the next `say` are the
cell's code; `tour.show` prints a value and `tour.check` a claim that must hold. The document and the notebook are made
from the same functions (`publish.py`), so the three cannot say different things.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torchvision.models import ResNet18_Weights, resnet18

from frostline.autograd.drawing import Drawing
from frostline.models.saved_file import read_plain

SEED = 0


class TourFailure(AssertionError):  # noqa: N818 - a claim of the tour failed, which it names
    """A value of the tour is not what the mathematics says."""


@dataclass(frozen=True)
class Cell:
    """A paragraph and its code: as it runs, and as shown, without the calls that print and check.

    Both leave out what is there for the linter and the type checker only.
    """

    prose: str
    code: str
    shown: str


class Voice(Protocol):
    """Where the tour speaks to: a terminal, a document or a notebook."""

    def title(self, text: str) -> None: ...
    def prose(self, text: str) -> None: ...
    def code(self, text: str) -> None: ...
    def value(self, name: str, text: str) -> None: ...
    def claim(self, text: str) -> None: ...
    def picture(self, name: str, drawing: Drawing) -> None: ...


class Tour:
    """Tells chapters to a voice.

    weights: a ResNet-18 state dict or the file of one. Without it: ImageNet's if torchvision has them in its cache,
    random ones otherwise; nothing is downloaded.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a state dict of a ResNet-18 with 1,000 classes.
    """

    def __init__(self, *, voice: Voice, weights: Mapping[str, torch.Tensor] | str | Path | None = None) -> None:
        self.voice = voice
        self.weights, self.weights_are = _resolve(weights)
        self._cells: Iterator[Cell] = iter(())

    def tell(self, chapter: Callable[["Tour"], None]) -> None:
        """Run a chapter."""
        self.voice.title(title_of(chapter))
        self._cells = iter(cells_of(chapter))
        chapter(self)

    def say(self, text: str) -> None:
        """Begin a cell with a paragraph; its code is shown before it runs."""
        self.voice.prose(text)
        cell = next(self._cells, None)
        if cell is not None and cell.shown:
            assert cell.prose == text, "A chapter says its paragraphs once each, in the order of its source."
            self.voice.code(cell.shown)

    def show(self, name: str, value: object) -> None:
        """Print a value: `name = value`."""
        text = textwrap.dedent(repr(value)) if isinstance(value, torch.Tensor) else str(value)
        self.voice.value(name, text)

    def check(self, claim: str, holds: bool) -> None:
        """State a claim that has just been computed.

        Raises:
            TourFailure: it does not hold.
        """
        if not holds:
            raise TourFailure(f"The tour's claim does not hold: {claim}.")
        self.voice.claim(claim)

    def draw(self, name: str, drawing: Drawing) -> None:
        """Show a picture; a document keeps it in a file of that name."""
        self.voice.picture(name, drawing)


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


def title_of(chapter: Callable[[Tour], None]) -> str:
    """The first line of the docstring."""
    return (inspect.getdoc(chapter) or chapter.__name__).splitlines()[0].rstrip(".")


def cells_of(chapter: Callable[[Tour], None]) -> list[Cell]:
    """A chapter's cells, read from its source."""
    source = textwrap.dedent(inspect.getsource(chapter))
    lines = source.splitlines()
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    body = function.body[1:]  # after the docstring
    starts = [index for index, statement in enumerate(body) if _called(statement) == "say"]
    assert starts[:1] == [0], f"{chapter.__name__} must begin with tour.say."
    cells = []
    for start, end in zip(starts, [*starts[1:], len(body)], strict=True):
        spoken = body[start]
        assert isinstance(spoken, ast.Expr)
        assert isinstance(spoken.value, ast.Call)
        prose = ast.literal_eval(spoken.value.args[0])
        statements = body[start + 1 : end]
        asserts = _numbers(statement for statement in statements if isinstance(statement, ast.Assert))
        telling = _numbers(statement for statement in statements if _only_tells(statement))
        first = spoken.end_lineno or 0
        last = (statements[-1].end_lineno or 0) if statements else first
        numbers = [number for number in range(first + 1, last + 1) if number not in asserts]
        code = _text(lines, numbers)
        shown = _text(lines, [number for number in numbers if number not in telling])
        cells.append(Cell(prose, code, shown))
    return cells


def _text(lines: list[str], numbers: list[int]) -> str:
    text = textwrap.dedent("\n".join(lines[number - 1] for number in numbers)).strip()
    return re.sub(r"  # noqa: .*", "", text)


def _numbers(statements: Iterable[ast.stmt]) -> set[int]:
    """The numbers of their lines."""
    return {number for each in statements for number in range(each.lineno, (each.end_lineno or each.lineno) + 1)}


def _only_tells(statement: ast.stmt) -> bool:
    """Whether a statement is a call of the tour, or a loop over nothing else."""
    if isinstance(statement, ast.For):
        return all(_only_tells(inner) for inner in statement.body)
    return _called(statement) is not None


def _called(statement: ast.stmt) -> str | None:
    """ "show" for the statement `tour.show(…)`."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        target = statement.value.func
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "tour":
            return target.attr
    return None


def _resolve(weights: Mapping[str, torch.Tensor] | str | Path | None) -> tuple[Mapping[str, torch.Tensor], str]:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name
    if weights is None and not cached.is_file():
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            return resnet18(weights=None).state_dict(), "random (ImageNet's are not in torchvision's cache)"
    if weights is None or isinstance(weights, str | Path):
        path = cached if weights is None else Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"There are no weights at {path}.")
        try:
            state, origin = read_plain(path), f"from {path.name}"
        except ValueError as error:
            raise ValueError(f"weights: `{path}` cannot be read as a state dict: {error}") from error
    else:
        state, origin = weights, "passed in"
    try:
        resnet18(weights=None).load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            "The tour's weights must be the state dict of a torchvision ResNet-18 with 1,000 classes; "
            f"these are not: {str(error).splitlines()[-1].strip()}"
        ) from error
    return state, origin
