import re

import pytest
import torch
from torch import nn

from frostline.autograd.blocks import blocks_of
from frostline.autograd.drawing import draw_stages
from frostline.autograd.observe import observe
from frostline.autograd.svg import ICE, ICE_LINE, WARM, WARM_LINE

from .networks import observed
from .pictures import canvas, faults, labels, rectangles

GRADIENT = f'stroke="{WARM_LINE}" stroke-width="5"'


def column(svg):
    """Label -> y, of the blocks' names and of the frost line."""
    return {label.text: label.top for label in labels(svg)}


@pytest.mark.parametrize("trainable", [("fc",), ("layer4", "fc"), ("layer2",), ("layer4.1", "fc"), ("",)])
def test_no_label_overlaps_and_it_fits_1280_pixels(trainable):
    svg = draw_stages(observed(*trainable)).svg
    assert faults(svg) == []
    assert canvas(svg).right <= 1280


@pytest.mark.parametrize(
    ("trainable", "above", "below"),
    [(("fc",), "head", "layer4"), (("layer4", "fc"), "layer4", "layer3"), (("layer2",), "layer2", "layer1")],
)
def test_the_path_of_the_gradient_stops_at_the_frost_line(trainable, above, below):
    svg = draw_stages(observed(*trainable)).svg
    place = column(svg)
    assert place["loss"] < place[above] < place["frost line: the gradient stops here"] < place[below] < place["images"]
    # The thick path's lowest point, against the blocks' boxes.
    [end] = [float(y) for y in re.findall(rf'V([\d.]+)" fill="none" {GRADIENT}', svg)]
    tops = {name: top for name, top in place.items() if name in (above, below)}
    assert tops[above] < end < tops[below]
    gradients = re.findall(r'fill="none" stroke="([^"]+)" stroke-width="3"', svg)
    assert len(gradients) == sum(block.trainable_tensors > 0 for block in blocks_of(observed(*trainable)))


def test_with_nothing_frozen_the_path_reaches_the_stem_and_there_is_no_frost_line():
    svg = draw_stages(observed("")).svg
    place = column(svg)
    assert "frost line: the gradient stops here" not in place
    [end] = [float(y) for y in re.findall(rf'V([\d.]+)" fill="none" {GRADIENT}', svg)]
    assert place["stem"] < end < place["images"]
    assert ICE not in re.findall(r'rx="6" fill="([^"]+)"', svg)[:-3]  # the legend has all three


def test_frozen_blocks_are_ice_and_dashed_and_trainable_ones_warm():
    svg = draw_stages(observed("layer4", "fc")).svg
    blocks = re.findall(r'height="60\.0" rx="6" fill="([^"]+)" stroke="([^"]+)" stroke-width="1.5"( stroke-dash)?', svg)
    frozen, trainable = (ICE, ICE_LINE, " stroke-dash"), (WARM, WARM_LINE, "")
    assert blocks.count(frozen) == 4
    assert blocks.count(trainable) == 2
    assert (
        len(blocks) == 8 == len([box for box in rectangles(svg) if box.bottom - box.top == 60])
    )  # loss and images too


def test_each_block_shows_parameters_kept_bytes_flops_and_shape():
    texts = [label.text for label in labels(draw_stages(observed("fc")).svg)]
    for text in ("8,393,728", "5,130", "4 KiB", "10.2 k", "2×512×2×2", "75.5 M", "100 B", "trains 2 of 2 tensors"):
        assert text in texts
    assert texts.count("nothing") == 5


def test_stages_of_any_network_are_drawn_even_with_long_names():
    network = nn.Sequential()
    network.add_module("a_stage_with_a_name_so_long_that_it_would_run_into_the_numbers", nn.Linear(4, 400_000))
    network.add_module("classifier", nn.Linear(400_000, 2))
    network[0].requires_grad_(False)
    svg = draw_stages(observe(network, torch.rand(3, 4), torch.sum)).svg
    assert faults(svg) == []
    assert ">…_it_would_run_into_the_numbers<"[-20:] in svg
