import re
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from frostline.autograd import draw, draw_operations, draw_stages

from .networks import observed, resnet


@pytest.fixture(scope="module")
def drawings():
    observation = observed("layer4", "fc")
    return {"operations": draw_operations(observation.graph), "stages": draw_stages(observation, title='A "B" <C> & D')}


@pytest.mark.parametrize("view", ["operations", "stages"])
def test_files_are_self_contained_and_need_no_graphviz(drawings, view, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for ending in ("svg", "dot"):
        text = drawings[view].save(tmp_path / "new" / f"graph.{ending}").read_text()
        assert "http" not in re.sub(r'xmlns(:xlink)?="http://www.w3.org/[^"]*"', "", text)
        assert not any(word in text for word in ("<script", "<image", "@import", "url(http"))
    ElementTree.fromstring((tmp_path / "new" / "graph.svg").read_text())
    assert drawings[view].save(tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.browser
@pytest.mark.parametrize("view", ["operations", "stages"])
def test_graphviz_draws_the_dot(drawings, view, tmp_path):
    command = ["dot", "-Tsvg", drawings[view].save(tmp_path / "graph.dot")]
    assert "<svg" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_another_ending_is_refused(drawings, tmp_path):
    with pytest.raises(ValueError, match=r"`graph\.pdf`: the ending must be one of \.svg, \.dot, \.png"):
        drawings["stages"].save(tmp_path / "graph.pdf")


def test_dot_has_every_node_and_edge_and_the_frost_line(drawings):
    graph = observed("layer4", "fc").graph
    dot = drawings["operations"].dot
    assert dot.count(" -> ") == len(graph.edges)
    assert sum(f"  n{index} [" in dot for index in range(len(graph.nodes))) == len(graph.nodes)
    stages = drawings["stages"].dot
    assert stages.count("frost line") == 1
    [line] = [line for line in stages.splitlines() if "frost line" in line]
    assert line.strip().startswith("s4 -> s3")  # layer4 -> layer3
    assert stages.count('penwidth="3"') == 2  # loss -> head -> layer4
    assert r"A \"B\" <C> & D" in stages


def test_the_summary_counts_parameters_or_leaves():
    assert draw_operations(observed("fc").graph).summary == (
        "6 nodes; 2 of 62 parameter tensors get a gradient; 4.1 KiB kept for backward"
    )
    x = torch.rand(3, requires_grad=True)
    assert draw(x.exp()).summary == "2 nodes; 1 leaf gets a gradient; 12 B kept for backward"


def test_any_function_of_the_users_is_drawn():
    a = torch.tensor([3.0, 4.0], requires_grad=True)
    drawing = draw((a**3).sum(), names={"a": a}, title="a³")
    assert "a (2)" in drawing._repr_svg_()


def test_a_fully_frozen_network_is_refused():
    network = resnet()
    with pytest.raises(ValueError, match="Every one of the network's 62 parameters is frozen"):
        draw(network(torch.rand(1, 3, 64, 64)).sum(), network=network)
