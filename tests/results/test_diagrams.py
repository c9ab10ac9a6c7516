"""Pictures of results say the numbers they are made of, and draw from 2 to many classes, also with one class absent."""

import re
from xml.etree import ElementTree

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from frostline.figures import save_figure, svg_of
from frostline.results.curves import applied_rates, draw_curves, phase_begins, read_curves
from frostline.results.diagrams import WITH_COUNTS, WITH_SHARES, draw_calibration, draw_confusion
from frostline.results.image_grids import Mistake, draw_mistakes, draw_seen

HOSTILE = [
    *(
        "<script>alert(1)</script>",
        "x" * 300,
        "W" * 300,
        "\u202eevil",
        "a\nb\nc",
        r"$\frac{1$",
        "  ",
        '&amp; "q"',
        "مرحبا",
    ),
    "日本語" * 10,
]
NO_GLYPH = pytest.mark.filterwarnings("ignore:Glyph .* missing from font")  # the script of some names


def texts(figure):
    return [re.sub("<[^>]*>", "", found) for found in re.findall(r"<text.*?</text>", svg_of(figure), flags=re.DOTALL)]


def drawn(confusion, classes):
    """The picture of images with this confusion matrix (true class, predicted class)."""
    true, predicted = (place.repeat_interleave(confusion.flatten()) for place in pairs_of(len(confusion)))
    return draw_confusion(true, predicted, classes, title="Confusion matrix")


def pairs_of(classes):
    return torch.cartesian_prod(torch.arange(classes), torch.arange(classes)).T


def test_a_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    shown = texts(drawn(torch.tensor([[6, 2], [0, 0]]), ["ice", "fire$_1$"]))
    assert {"6", "75 %", "2", "25 %", "ice (8)", "fire$_1$ (0)", "true class (images)", "Confusion matrix"} <= set(
        shown
    )


def test_of_many_classes_those_with_the_most_mistakes_are_shown_and_the_others_summed_up():
    confusion = 5 * torch.eye(300, dtype=torch.int64)
    confusion[3, 7], confusion[9, 2], confusion[298, 299] = 11, 4, 1
    shown = texts(drawn(confusion, [f"class {index}" for index in range(300)]))
    assert {"class 3 (16)", "class 7 (5)", "class 9 (9)", "class 298 (6)"} <= set(shown)
    assert f"276 other classes ({5 * 276:,})" in shown  # 24 shown ones take part in all mistakes
    assert f"{5 * 276:,}" in shown
    assert any("the 24 classes with the most mistakes" in text for text in shown)
    lines = [line for line in shown if "→" in line][1:]
    assert lines == ["11: class 3 → class 7", "4: class 9 → class 2", "1: class 298 → class 299"]


def test_the_calibration_error_is_the_one_known_by_hand():
    """Two images at 0.9, one right: gap 0.4. Two at 0.6, both right: gap 0.4. Over 4 images: 40 %."""
    confidence = torch.tensor([0.9, 0.9, 0.6, 0.6], dtype=torch.float64)
    right = torch.tensor([True, False, True, True])
    figure = draw_calibration(confidence, right, title="Calibration, 4 images")
    [line] = [text for text in texts(figure) if "ECE" in text]
    assert line == "calibration error (ECE, 15 bins): 40.00 %"
    bars = [bar.get_height() for bar in figure.axes[1].patches]
    assert sum(bars) == 4
    assert sorted(bars)[-2:] == [2, 2]


def test_a_single_image_has_a_calibration_diagram(tmp_path):
    figure = draw_calibration(torch.tensor([1.0]), torch.tensor([True]), title="one")
    assert save_figure(figure, tmp_path / "one.png").stat().st_size > 5000


METRICS = """epoch,step,train/loss,val/accuracy,freezing/lr/head,freezing/lr/layer4,freezing/phase
0,0,,,0.1,0.0,0
0,1,2.5,,0.1,0.0,
0,3,2.0,0.5,0.2,0.02,1
0,3,1.5,,,,
1,5,,,0.2,0.02,1
"""


def test_curves_take_the_later_value_of_a_step_that_a_resumed_run_went_over_again(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    curves = read_curves(tmp_path / "metrics.csv")
    assert curves["train/loss"] == {1: 2.5, 3: 1.5}
    assert curves["val/accuracy"] == {3: 0.5}
    assert applied_rates(curves) == ({0: 0.1, 1: 0.1, 3: 0.2, 5: 0.2}, {0: 0.1, 1: 0.1, 3: 0.02, 5: 0.02})


def test_curves_mark_where_a_phase_begins_and_not_where_a_run_was_resumed(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    curves = read_curves(tmp_path / "metrics.csv")
    phases = phase_begins(curves, ["head", "layer4"])
    assert phases == [(0, "head"), (3, "layer4")]
    figure = draw_curves(curves, phases, title="Training curves")
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert marks == [3]
    assert {"phase head", "| phase layer4", "optimizer step", "learning rate"} <= set(texts(figure))


@NO_GLYPH
@pytest.mark.parametrize("most", [WITH_SHARES, WITH_COUNTS, 40])
def test_names_from_outside_stay_text_of_one_line_and_within_the_picture(most, tmp_path):
    names = [*HOSTILE, *(f"class {index}" for index in range(most - len(HOSTILE)))]
    confusion = 3 * torch.eye(most, dtype=torch.int64)
    confusion[:, 0] += 1
    figure = drawn(confusion, names)
    root = ElementTree.fromstring(svg_of(figure))
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert any("<script>" in text for text in root.itertext())
    FigureCanvasAgg(figure).draw()
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.findobj(lambda found: isinstance(found, Text) and found.get_text()):
        place = text.get_window_extent()
        assert text.get_text().count("\n") <= 1  # count and share
        assert min(place.x0, place.y0, width - place.x1, height - place.y1) >= 0, text


@NO_GLYPH
def test_grids_keep_each_name_below_its_image():
    images = torch.zeros(len(HOSTILE), 3, 8, 8)
    found = [
        Mistake(image=image, name=name, true=name, predicted=name, probability=0.999)
        for image, name in zip(images, HOSTILE, strict=True)
    ]
    mixed = torch.eye(len(HOSTILE)) * 0.7 + torch.eye(len(HOSTILE)).roll(1, dims=1) * 0.3
    for figure in (draw_mistakes(found, title="mistakes"), draw_seen(images, mixed, HOSTILE)):
        FigureCanvasAgg(figure).draw()
        for axes in figure.axes:
            for text in axes.texts:
                place = text.get_window_extent()
                assert place.width <= 2.02 * figure.dpi, text.get_text()  # inches of a column
                assert place.y0 >= 0


def test_a_mixed_image_is_named_by_its_two_largest_shares():
    figure = draw_seen(torch.zeros(1, 3, 8, 8), torch.tensor([[0.1, 0.6, 0.3]]), ["a", "b", "c"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["60 % b", "30 % c"]
    plain = draw_seen(torch.zeros(1, 3, 8, 8), torch.tensor([2]), ["a", "b", "c"])
    assert [text.get_text() for text in plain.axes[0].texts] == ["c"]
