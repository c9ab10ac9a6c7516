"""A small SVG writer: shapes and single-line labels in one typeface, whose width is known without a browser."""

from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

# Every face of this list advances 0.6 em per character (Consolas 0.55), so that a label's width can be computed.
FONT = "'DejaVu Sans Mono', Menlo, 'Liberation Mono', Consolas, 'Courier New', monospace"
ADVANCE = 0.602  # em, DejaVu Sans Mono, the widest of them

INK, MUTED, PAPER = "#1d2733", "#5b6775", "#ffffff"
ICE, ICE_LINE, ICE_INK = "#e6f3fb", "#6aaed6", "#1f5f8b"
WARM, WARM_LINE, WARM_INK = "#fff0df", "#e07b27", "#8f4308"


def text_width(text: str, size: float) -> float:
    """In pixels."""
    return len(text) * size * ADVANCE


@dataclass
class Canvas:
    """Collects shapes; coordinates in pixels, y downwards."""

    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def rectangle(
        self, x: float, y: float, width: float, height: float, *, fill: str, line: str, dashed: bool = False
    ) -> None:
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" fill="{fill}" '
            f'stroke="{line}" stroke-width="1.5"{dash}/>'
        )

    def path(self, data: str, *, line: str, thickness: float = 1.5, dashed: bool = False, arrow: bool = False) -> None:
        """`data` in SVG's path language; an arrow takes the line's colour."""
        dash = ' stroke-dasharray="6 5"' if dashed else ""
        head = f' marker-end="url(#arrow{line.lstrip("#")})"' if arrow else ""
        self.parts.append(
            f'<path d="{data}" fill="none" stroke="{line}" stroke-width="{thickness:g}" stroke-linecap="round"'
            f"{dash}{head}/>"
        )

    def disc(self, x: float, y: float, radius: float, *, fill: str) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        colour: str = INK,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """A label whose baseline lies at y; anchor: start, middle or end."""
        weight = ' font-weight="700"' if bold else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"{weight}>'
            f"{escape(text)}</text>"
        )

    def snowflake(self, x: float, y: float, radius: float, *, colour: str = ICE_LINE) -> None:
        """Three crossing strokes with small branches, drawn: the character ❄ is missing from many fonts."""
        side, tip, fork = radius * 0.3, radius * 0.95, radius * 0.6
        arm = f"M0 {-radius:.2f}V{radius:.2f}"
        for sign in (-1, 1):
            arm += f"M{-side:.2f} {sign * tip:.2f}L0 {sign * fork:.2f}L{side:.2f} {sign * tip:.2f}"
        for angle in (0, 60, 120):
            self.parts.append(
                f'<path transform="translate({x:.1f} {y:.1f}) rotate({angle})" d="{arm}" fill="none" stroke="{colour}" '
                'stroke-width="1.6" stroke-linecap="round"/>'
            )

    def svg(self) -> str:
        """A self-contained document: no font, script or picture is fetched from anywhere."""
        markers = "".join(
            f'<marker id="arrow{colour.lstrip("#")}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M0 0L8 4L0 8Z" fill="{colour}"/></marker>'
            for colour in (MUTED, WARM_LINE, ICE_LINE)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:.0f}" height="{self.height:.0f}" '
            f'viewBox="0 0 {self.width:.0f} {self.height:.0f}" font-family={quoteattr(FONT)} role="img">'
            f"<title>{escape(self.title)}</title><defs>{markers}</defs>"
            f'<rect width="100%" height="100%" fill="{PAPER}"/>' + "\n".join(self.parts) + "</svg>\n"
        )
