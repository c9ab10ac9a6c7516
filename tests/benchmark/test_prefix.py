"""The benchmark of the fast path's parts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scripts.benchmark.document import put_section
from scripts.benchmark.prefix import BASE, folded, measured, table
from torchvision.models import resnet18

GIVEN = {"ms": {BASE: 40.0, "eval, no graph": 25.0}, "peak_mb": 1000}
KEPT = {"ms": {BASE: 32.0, "eval, no graph": 20.0}, "peak_mb": 1100}


def test_gains_are_ratios_to_the_tutorials_way() -> None:
    text = table(GIVEN, KEPT, about="here")
    assert "| eval, no graph | 25.0 | 1.60 | 20.0 | 2.00 |" in text
    assert "1,000 MB, with the allocator's settings 1,100 MB" in text


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "BENCHMARKS.md"
    path.write_text("# Benchmarks\n\nbefore\n")
    put_section(path, "prefix", "first")
    path.write_text(path.read_text() + "\nafter\n")
    put_section(path, "prefix", "second")
    assert path.read_text() == "# Benchmarks\n\nbefore\n\n<!-- prefix -->\nsecond\n<!-- /prefix -->\n\nafter\n"


def test_a_folded_network_computes_the_same() -> None:
    torch.manual_seed(0)
    network, images = resnet18().eval(), torch.rand(2, 3, 64, 64)
    torch.nn.init.uniform_(network.bn1.running_mean)
    torch.nn.init.uniform_(network.layer2[0].downsample[1].running_var, 0.5, 2)
    torch.testing.assert_close(folded(network)(images), network(images), rtol=1e-4, atol=1e-5)


def test_every_way_is_measured() -> None:
    found = measured(batch_size=2, image_size=32, rounds=1)
    assert len(found["ms"]) == 7
    assert all(value > 0 for value in found["ms"].values())


@pytest.mark.slow
def test_the_script_prints_its_table() -> None:
    words = ["scripts/benchmark/prefix.py", "--batch-size", "2", "--image-size", "32", "--rounds", "1"]
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("## What each part")
