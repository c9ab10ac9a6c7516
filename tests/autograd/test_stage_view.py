import pytest
import torch
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_hex
from torch import nn

from frostline.autograd.blocks import blocks_of
from frostline.autograd.canvas import POINT
from frostline.autograd.drawing import draw_stages
from frostline.autograd.observe import observe
from frostline.autograd.stage_view import HIGH
from frostline.figures import ICE, ICE_LINE, WARM, WARM_LINE

from .networks import observed
from .pictures import canvas, faults, labels


def gradient_end(figure):
    """y (px) at which the thick path of the gradient ends."""
    [path] = [points for points in strokes(figure, 5) if len(points) == 3]
    return path[-1][1]


def collection(figure, kind):
    [found] = [found for found in figure.axes[0].collections if isinstance(found, kind)]
    return found


def strokes(figure, thickness):
    lines = collection(figure, LineCollection)
    styles = zip(lines.get_segments(), lines.get_colors(), lines.get_linewidths(), strict=True)
    return [points for points, colour, wide in styles if to_hex(colour) == WARM_LINE and wide == thickness * POINT]


def column(figure):
    """Label -> y, of the blocks' names and of the frost line."""
    return {label.text: label.top for label in labels(figure)}


@pytest.mark.parametrize("trainable", [("fc",), ("layer4", "fc"), ("layer2",), ("layer4.1", "fc"), ("",)])
def test_no_label_overlaps_and_it_fits_1280_pixels(trainable):
    figure = draw_stages(observed(*trainable)).figure
    assert faults(figure) == []
    assert canvas(figure).right <= 1280


@pytest.mark.parametrize(
    ("trainable", "above", "below"),
    [(("fc",), "head", "layer4"), (("layer4", "fc"), "layer4", "layer3"), (("layer2",), "layer2", "layer1")],
)
def test_the_path_of_the_gradient_stops_at_the_frost_line(trainable, above, below):
    figure = draw_stages(observed(*trainable)).figure
    place = column(figure)
    assert place["loss"] < place[above] < place["frost line: the gradient stops here"] < place[below] < place["images"]
    # The thick path's lowest point, against the blocks' boxes.
    end = gradient_end(figure)
    tops = {name: top for name, top in place.items() if name in (above, below)}
    assert tops[above] < end < tops[below]
    assert len(strokes(figure, 3)) == sum(block.trainable_tensors > 0 for block in blocks_of(observed(*trainable)))


def test_with_nothing_frozen_the_path_reaches_the_stem_and_there_is_no_frost_line():
    figure = draw_stages(observed("")).figure
    place = column(figure)
    assert "frost line: the gradient stops here" not in place
    end = gradient_end(figure)
    assert place["stem"] < end < place["images"]
    assert (ICE, ICE_LINE, True) not in blocks_drawn(figure)


def test_frozen_blocks_are_ice_and_dashed_and_trainable_ones_warm():
    figure = draw_stages(observed("layer4", "fc")).figure
    blocks = blocks_drawn(figure)
    assert blocks.count((ICE, ICE_LINE, True)) == 4
    assert blocks.count((WARM, WARM_LINE, False)) == 2
    assert len(blocks) == 8  # loss and images too


def blocks_drawn(figure):
    """(fill, line, dashed) of each block."""
    boxes = collection(figure, PatchCollection)
    styles = zip(boxes.get_paths(), boxes.get_facecolors(), boxes.get_edgecolors(), boxes.get_linestyles(), strict=True)
    return [
        (to_hex(fill), to_hex(line), dashes is not None)
        for path, fill, line, (_, dashes) in styles
        if path.get_extents().height == HIGH
    ]


def test_each_block_shows_parameters_kept_bytes_flops_and_shape():
    texts = [label.text for label in labels(draw_stages(observed("fc")).figure)]
    for text in ("8,393,728", "5,130", "4 KiB", "10.2 k", "2×512×2×2", "75.5 M", "100 B", "trains 2 of 2 tensors"):
        assert text in texts
    assert texts.count("nothing") == 5


def test_stages_of_any_network_are_drawn_even_with_long_names():
    network = nn.Sequential()
    network.add_module("a_stage_with_a_name_so_long_that_it_would_run_into_the_numbers", nn.Linear(4, 400_000))
    network.add_module("classifier", nn.Linear(400_000, 2))
    network[0].requires_grad_(False)
    figure = draw_stages(observe(network, torch.rand(3, 4), torch.sum)).figure
    assert faults(figure) == []
    assert any(label.text.startswith("…") and label.text.endswith("run_into_the_numbers") for label in labels(figure))
