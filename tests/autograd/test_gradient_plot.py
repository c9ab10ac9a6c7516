import xml.etree.ElementTree as ElementTree

import pytest

from frostline.autograd.flow import Flow
from frostline.autograd.gradient_plot import plot_gradients
from frostline.figures import save_figure

STAGES = {"stem": ["conv1.weight"], "head": ["fc.weight", "fc.bias"]}
FLOWS = [
    Flow("conv1.weight", tensors=1),
    Flow("fc.weight", 1, 1, 1, 0, 10, 1.0, 2.0, 0.5, 0, weights=1.0, moved=1e-6),
    Flow("fc.bias", 1, 1, 1, 0, 2, 0.1, 0.2, 0.1, 0, weights=1.0, moved=1e-8),
]


def test_bars_are_mean_and_maximum_and_dots_the_steps_on_logarithmic_axes():
    figure = plot_gradients(FLOWS, STAGES, title="test")
    size, step = figure.axes
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bars in size.containers for bar in bars]
    assert bars == [(1, 0.5), (2, 0.1), (1, 0.2), (2, 0.1)]
    assert (size.get_yscale(), step.get_yscale()) == ("log", "log")
    assert [list(values) for values in step.lines[0].get_data()] == [[1, 2], [pytest.approx(1e-3), pytest.approx(1e-4)]]
    assert [label.get_text() for label in step.get_xticklabels()] == ["stem", "head"]


def test_png_and_svg_are_written_and_the_svg_keeps_its_texts(tmp_path):
    def saved(name):
        return save_figure(plot_gradients(FLOWS, STAGES, title="Gradients of a test"), tmp_path / name)

    assert saved("a/plot.png").read_bytes().startswith(b"\x89PNG")
    text = saved("plot.svg").read_text()
    words = [word.text for word in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert "Gradients of a test" in words
    assert "head" in words
    assert text == saved("again.svg").read_text()


def test_a_network_without_any_gradient_is_plotted_too(tmp_path):
    save_figure(plot_gradients([Flow(flow.name, tensors=1) for flow in FLOWS], STAGES, title=""), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
