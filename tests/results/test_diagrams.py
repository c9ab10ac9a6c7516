"""Pictures of results say the numbers they are made of, and draw from 2 to many classes, also with one class absent."""

import re

import pytest
import torch

from frostline.figures import save_figure, svg_of
from frostline.results.curves import applied_rates, draw_curves, read_curves
from frostline.results.diagrams import draw_calibration, draw_confusion


def texts(figure):
    return [re.sub("<[^>]*>", "", found) for found in re.findall(r"<text.*?</text>", svg_of(figure), flags=re.DOTALL)]


def test_a_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    figure = draw_confusion(torch.tensor([[6, 2], [0, 0]]), ["ice", "fire$_1$"], title="Confusion matrix, 8 images")
    shown = texts(figure)
    assert {"6", "75 %", "2", "25 %", "ice (8)", "fire$_1$ (0)", "true class (images)"} <= set(shown)
    assert "Confusion matrix, 8 images" in shown


def test_of_many_classes_the_pairs_confused_most_are_listed():
    confusion = 5 * torch.eye(120, dtype=torch.int64)
    confusion[3, 7], confusion[9, 2] = 11, 4
    shown = texts(draw_confusion(confusion, [f"class {index}" for index in range(120)], title="many"))
    pairs = [line.split() for line in shown if "×" in line]
    assert [(pair[0], pair[-1]) for pair in pairs] == [("11", "(3)"), ("4", "(9)")]


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


METRICS = """epoch,step,train/loss,val/accuracy,lr-SGD/head,lr-SGD/layer4,lr-SGD/head-momentum
0,1,2.5,,0.1,0.0,0.9
0,3,2.0,0.5,0.2,0.02,0.9
0,3,1.5,,,,
"""


def test_curves_take_the_later_value_of_a_step_that_a_resumed_run_went_over_again(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    curves = read_curves(tmp_path / "metrics.csv")
    assert curves["train/loss"] == {1: 2.5, 3: 1.5}
    assert curves["val/accuracy"] == {3: 0.5}
    assert applied_rates(curves) == ({1: 0.1, 3: 0.2}, {1: 0.1, 3: 0.02})


def test_curves_mark_where_a_phase_begins(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    figure = draw_curves(read_curves(tmp_path / "metrics.csv"), [(0, "head"), (2, "layer4")], title="Training curves")
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert marks == [2]
    assert {"phase head", "| phase layer4", "optimizer step", "learning rate"} <= set(texts(figure))


@pytest.mark.parametrize("name", ["日本", "a\nb"])
def test_names_in_any_script_are_drawn_without_a_warning(name, tmp_path):
    figure = draw_confusion(torch.eye(2, dtype=torch.int64), [name, "b"], title="names")
    assert save_figure(figure, tmp_path / "names.png").exists()
