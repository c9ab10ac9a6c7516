import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from frostline.figures import DARK, INK, PAPER, WARM_LINE, save_figure, styled, svg_of


@styled
def figure() -> Figure:
    drawn = Figure(figsize=(2, 1))
    axes = drawn.subplots()
    axes.plot([0, 1], [0, 1], color=WARM_LINE)
    axes.set_title("a title")
    return drawn


def test_an_svg_has_only_the_palettes_colours_and_a_dark_one_for_each() -> None:
    svg = svg_of(figure())
    style, drawn = re.search(r"@media \(prefers-color-scheme: dark\)(.*?)</style>(.*)", svg, re.DOTALL).groups()
    used = set(re.findall(r"(?:fill|stroke): (#\w+)", drawn))
    assert {INK, PAPER, WARM_LINE} <= used <= DARK.keys()
    for light in used:
        assert f'[style*="fill: {light}"]{{fill: {DARK[light]} !important}}' in style
        assert f'[style*="stroke: {light}"]{{stroke: {DARK[light]} !important}}' in style


def test_dark_colours_contrast_with_their_ground_as_the_light_ones_do() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(*colours: str) -> float:
        low, high = sorted(luminance(colour) for colour in colours)
        return (high + 0.05) / (low + 0.05)

    inks, grounds = ("#1d2733", "#5b6775"), ("#ffffff", "#e6f3fb", "#fff0df")
    pairs = [(ink, ground) for ink in inks for ground in grounds] + [("#1f5f8b", "#e6f3fb"), ("#8f4308", "#fff0df")]
    for ink, ground in pairs:
        assert contrast(ink, ground) >= 4.5
        assert contrast(DARK[ink], DARK[ground]) >= 4.5


@pytest.mark.parametrize("name", ["a.svg", "new/a.png", "a.pdf"])
def test_a_figure_is_written_in_the_format_of_its_ending(tmp_path: Path, name: str) -> None:
    starts = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}
    path = save_figure(figure(), tmp_path / name, formats=(".svg", ".png", ".pdf"))
    assert path.read_bytes().startswith(starts[path.suffix])


def test_the_same_figure_gives_the_same_svg() -> None:
    assert svg_of(figure()) == svg_of(figure())


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`a\.gif`: the ending must be one of \.png, \.svg\."):
        save_figure(figure(), tmp_path / "a.gif")


def test_a_figure_too_high_for_a_png_is_drawn_smaller(tmp_path: Path) -> None:
    assert save_figure(Figure(figsize=(1, 700)), tmp_path / "high.png").is_file()
