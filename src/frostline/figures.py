"""The colours, style and files of every picture: drawn by matplotlib, SVGs with a dark variant."""

import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from frostline.storage.atomic import atomically
from frostline.storage.names import printable_name

INK, MUTED, PAPER = "#1d2733", "#5b6775", "#ffffff"
ICE, ICE_LINE, ICE_INK = "#e6f3fb", "#6aaed6", "#1f5f8b"  # frozen
WARM, WARM_LINE, WARM_INK = "#fff0df", "#e07b27", "#8f4308"  # trainable
DARK = {
    INK: "#e3e9f0",
    MUTED: "#9aa7b5",
    PAPER: "#12181f",
    ICE: "#14303f",
    ICE_LINE: "#4d94bd",
    ICE_INK: "#9fd3f2",
    WARM: "#402a14",
    WARM_LINE: "#e8914a",
    WARM_INK: "#ffc48a",
}
DARK_RULES = "".join(
    f'[style*="{kind}: {light}"]{{{kind}: {dark} !important}}'
    for light, dark in DARK.items()
    for kind in ("fill", "stroke")
)
STYLE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
    # Texts stay texts; fixed identifiers, so that the same figure gives the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "frostline",
    # Hinting would round each character's width to whole pixels.
    "text.hinting": "none",
}


styled = matplotlib.rc_context(STYLE)
"""Decorator of a function that makes a figure."""


def titled(figure: Figure, title: str) -> None:
    """Give the figure its title, which is plain text, at its upper left."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)


def fitted(name: str, *, points: float, size: float) -> str:
    """A name from outside in one line of at most so many points at a font size, its middle cut out where it is longer.

    A name that is blank, or begins or ends so, is quoted.
    """
    text = printable_name(name)
    if text.strip() != text or not text:
        text = f"'{text}'"
    shortened, kept = text, len(text)
    while kept and _width(shortened, size) > points:
        kept = min(kept - 1, int(kept * points / _width(shortened, size)) or 1)
        end = kept // 2
        shortened = f"{text[: kept - end]}…{text[len(text) - end :]}"
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in shortened):
        shortened = f"\u200e{shortened}\u200e"  # or it would take the text around it into its own direction
    return shortened


def _width(text: str, size: float) -> float:
    """Points; a wide character, which the font lacks, is drawn as a box of up to 1.1 times the font size."""
    font = FontProperties(size=size)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    known = "".join(character for character in text if unicodedata.east_asian_width(character) not in "WF")
    width: float = text_to_path.get_text_width_height_descent(known, font, ismath=False)[0]
    return width + 1.1 * wide * size


@contextmanager
def _drawing() -> Iterator[None]:
    """The style, without warnings of a class name in a script that matplotlib's font lacks: an SVG shows it."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def svg_of(figure: Figure) -> str:
    """The figure as an SVG element that fetches nothing, with other colours where the viewer prefers dark ones."""
    text = StringIO()
    with _drawing():
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = re.sub(r".*?(?=<svg)", "", text.getvalue(), count=1, flags=re.DOTALL)
    return svg.replace("</style>", f"@media (prefers-color-scheme: dark){{{DARK_RULES}}}</style>", 1)


def save_figure(figure: Figure, path: str | Path, *, formats: tuple[str, ...] = (".png", ".svg")) -> Path:
    """Write the format that the path ends in, atomically.

    Raises:
        ValueError: an ending that is not one of `formats`.
    """
    path = Path(path)
    if path.suffix not in formats:
        raise ValueError(f"Cannot draw to `{path.name}`: the ending must be one of {', '.join(formats)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as part:
        if path.suffix == ".svg":
            part.write_text(svg_of(figure), encoding="utf-8")
        else:
            part.write_bytes(_pixels_of(figure, path.suffix[1:]))
    return path


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG file, in the light colours."""
    return _pixels_of(figure, "png")


def _pixels_of(figure: Figure, kind: str) -> bytes:
    # Agg draws at most 2^16 pixels in a direction, and few programs show that many.
    dpi, content = min(140.0, 20_000 / max(figure.get_size_inches())), BytesIO()
    with _drawing():
        figure.savefig(content, format=kind, dpi=dpi)
    return content.getvalue()
