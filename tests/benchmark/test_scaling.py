"""The fits against series made by a known curve, the plan, the report, and a quick run of everything."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scripts.benchmark.fits import line, power
from scripts.benchmark.scaling import plan, run_point
from scripts.benchmark.scaling_points import aside, memory, processor_seconds
from scripts.benchmark.scaling_report import draw, fits, section

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark" / "scaling.py"


def made(**changes) -> dict:
    """Series on known curves."""
    images = [1000, 10_000, 100_000]
    series = {
        "images": [
            {"images": n, "epoch_s": 1e-4 * n, "own_mb": 500 + 5e-5 * n, "peak_mb": 800 + 1e-3 * n} for n in images
        ],
        "classes": [
            {"classes": n, "step_ms": 2 + 1e-3 * n, "peak_mb": 900, "own_mb": 500 + 32e-6 * n**2}
            for n in (10, 100, 1000, 10_000)
        ],
        "resolution": [{"side": n, "image_ms": 1e-4 * n**2} for n in (64, 128, 256)],
        "row size": [{"row_bytes": n, "row_us": 5 + 1e-3 * n} for n in (1024, 100_352, 401_408)],
        "cache size": [{"total_bytes": n, "row_us": 100.0} for n in (1e7, 1e8, 1e9)],
        "workers": [{"workers": n, "epoch_s": 2 + n, "epoch_wall_s": 2.5, "images": 20_000} for n in (0, 1, 2)],
        "decoding": [{"workers": n, "image_ms": 3.0, "image_wall_ms": 3.5, "start_s": 0.1 * n} for n in (0, 1, 2)],
    }
    return {"series": series | changes, "quick": False, "machine": "a machine", "when": "2026-01-01"}


def test_a_power_and_a_line_are_fitted():
    x = [1.0, 10.0, 100.0, 1000.0]
    curve = power(x, [3 * value**1.5 for value in x])
    assert (curve.exponent, curve.factor, curve.worst) == pytest.approx((1.5, 3.0, 0.0))
    straight = line(x, [7 + 0.5 * value for value in x])
    assert (straight.start, straight.slope, straight.worst) == pytest.approx((7.0, 0.5, 0.0))
    assert straight(np.array([4.0]))[0] == pytest.approx(9.0)


def test_the_farthest_point_is_reported():
    # The line stays nearest, relatively, to the exact ones.
    assert 0.2 < line([1, 2, 3, 4, 5], [1, 2, 3, 4, 10]).worst < 0.6
    assert power([1, 10, 100], [1, 20, 100]).worst == pytest.approx(1 - 2 ** (-2 / 3))


def test_the_fits_of_the_report():
    fit = fits(made())
    assert fit["epoch"].exponent == pytest.approx(1)
    assert fit["own memory"].slope * 1e6 == pytest.approx(50)
    assert fit["classes"].start == pytest.approx(2)
    assert fit["memory by classes"].slope * 1e6 == pytest.approx(32)
    assert fit["resolution"].exponent == pytest.approx(2)
    assert fit["row size"].slope == pytest.approx(1e-3)
    assert fit["cache size"].exponent == pytest.approx(0, abs=1e-9)


def test_the_section_says_fit_expectation_and_numbers():
    text = section(made(), picture="docs/figures/scaling.svg")
    assert "| ∝ images^1.00; 100 µs per image | exponent 1 | 0 % |" in text
    assert "| 500 MB + 50 bytes per image |" in text
    assert "| 2.00 ms + 1.000 µs per class |" in text
    assert "| 500 MB + 32 bytes per pair of classes |" in text
    assert "| ∝ side^2.00 |" in text
    assert "| 5.0 µs + 1.00 GB/s |" in text
    assert "own memory is 505 MB, with 500 MB at 1,000" in text
    assert "grows from 801 to 900 MB" in text
    assert "| 2 | 4.00 | 2.50 | 3.00 | 3.50 | 0.20 |" in text


def test_the_picture_has_a_panel_for_each_series_and_is_the_same_each_time(tmp_path):
    draw(made(), tmp_path / "one.svg")
    draw(made(), tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    ElementTree.fromstring(text)
    for title in ("An epoch from", "Memory", "by classes", "by resolution", "by its size", "by size of", "Decoding"):
        assert title in text


def test_the_plan_spans_what_is_promised():
    planned = {name: points for name, (_, points) in plan(quick=False, folder="x").items()}
    assert [planned["images"][place]["images"] for place in (0, -1)] == [1000, 100_000]
    assert [planned["classes"][place]["classes"] for place in (0, -1)] == [10, 10_000]
    assert [planned["resolution"][place]["side"] for place in (0, -1)] == [64, 320]
    assert [point["workers"] for point in planned["workers"]] == [0, 1, 2]


def test_memory_is_this_process_own_and_a_child_adds_nothing():
    before = memory("VmHWM")
    held = bytearray(b"x") * 60_000_000
    assert memory("RssAnon") > 60
    assert memory("VmHWM") >= memory("RssAnon")
    del held
    after = memory("VmHWM")
    aside(lambda: bytearray(b"x") * int(2e6 * (after + 100)))
    assert memory("VmHWM") == pytest.approx(after, abs=20)
    assert after >= before
    with pytest.raises(OSError, match="VmNothing"):
        memory("VmNothing")


def test_a_failed_preparation_is_not_passed_over():
    with pytest.raises(RuntimeError, match="ended with 3"):
        aside(lambda: os._exit(3))


def test_processor_time_counts_what_this_process_does():
    start = processor_seconds()
    sum(range(3_000_000))
    assert processor_seconds() > start


def test_a_failed_point_says_what_failed():
    with pytest.raises(RuntimeError, match=re.escape("resolution {'side': 0, 'repeats': 1} failed")):
        run_point("resolution", {"side": 0, "repeats": 1})


def test_a_quick_run_writes_no_document(tmp_path):
    words = [sys.executable, str(SCRIPT), "--quick", "--document", str(tmp_path / "BENCHMARKS.md")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--quick measures too little for a document" in done.stderr


@pytest.mark.slow
def test_a_quick_run_measures_every_series(tmp_path):
    words = [sys.executable, str(SCRIPT), "--quick", "--json", str(tmp_path / "s.json")]
    done = subprocess.run(
        [*words, "--picture", str(tmp_path / "s.svg")], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "s.json").read_text())
    for name, (_, points) in plan(quick=True, folder="x").items():
        assert len(found["series"][name]) == len(points)
    for point in found["series"]["images"]:
        assert 0 < point["epoch_s"] < 60
        assert 0 < point["own_mb"] <= point["peak_mb"]
    assert (tmp_path / "s.svg").stat().st_size > 10_000
    assert "## How cost grows" in done.stdout
