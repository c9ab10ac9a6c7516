import pytest
import torch
import torch.nn.functional as F

from frostline.autograd.flow import by_stage
from frostline.autograd.gradient_flow import measure_gradients
from frostline.autograd.gradient_table import gradient_table
from frostline.tables import as_text

from .networks import IMAGES, TARGETS, resnet


@pytest.fixture(scope="module")
def stages():
    network = resnet("layer4", "fc")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    batches = [(IMAGES, TARGETS), (IMAGES.flip(3), TARGETS)]
    return by_stage(network, measure_gradients(network, batches, F.cross_entropy, optimizer))


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_has_a_row_and_a_sentence_for_each_stage(stages, width):
    text = as_text(gradient_table(stages), width=width)
    lines = text.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert lines[0].split() == ["stage", "trains", "norm", "mean", "|g|", "max", "|g|", "zeros", "Δw/w", "noise"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:7]}
    assert rows["layer3"] == ["0/15", "-", "-", "-", "-", "-", "-"]
    assert rows["head"][0] == "2/2"
    assert float(rows["head"][1]) == pytest.approx(stages[-1].norm, rel=1e-2)
    assert "layer1 receives no gradient: it is frozen." in lines
    assert sum(line.startswith("layer4 learns") for line in lines) == 1
