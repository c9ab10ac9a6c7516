"""What `gpu.py` says where there is no CUDA device, and its loop on the CPU with sizes that mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scripts.benchmark.document import put_section, section_in
from scripts.benchmark.gpu import agreed, measure, rate
from scripts.benchmark.gpu_report import NOT_MEASURED, section, share
from tests.preloaded import run as run_preloaded

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark" / "gpu.py"
SMALL = (
    "--device", "cpu", "--batch-sizes", "2", "--image-size", "32", "--seconds", "0.05", "--product-side", "64",
    "--copy-bytes", "100000",
)  # fmt: skip


def gpu(output: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return run_preloaded([sys.executable, SCRIPT, *words], output=output, env=environment)


def found(**changes) -> dict:
    row = {"workload": "full", "mode": "eager", "batch_size": 32, "devices": 1}
    return {
        "rows": [row | {"images_per_s": 2000.0, "first_step_s": 1.5, "peak_bytes": 3e9}],
        "ceilings": {"operations_per_s": 8e14, "bytes_per_s": 4e12},
        "counted": {"full 32": {"operations": 1e10, "bytes": 2e8}},
        "device": "a device", "image_size": 224, "versions": {"torch": "2", "CUDA": "13"},
    } | changes  # fmt: skip


def test_without_a_device_each_row_says_not_measured_and_the_script_succeeds(tmp_path):
    document = tmp_path / "BENCHMARKS.md"
    document.write_text("# Benchmarks\n\nMine.\n")
    done = gpu(tmp_path, "--document", str(document), "--batch-sizes", "32", "--image-size", "64")
    assert done.returncode == 0, done.stderr
    assert "There is no CUDA device here: not measured." in done.stdout
    text = section_in(document, "gpu")
    rows = [line for line in text.splitlines() if "| 32 | 1 |" in line]
    assert len(rows) == 5 * 3
    assert all(f"| {NOT_MEASURED} |" in row for row in rows)
    assert document.read_text().startswith("# Benchmarks\n\nMine.\n")


def test_figures_of_a_device_are_not_overwritten_without_one(tmp_path):
    document = tmp_path / "BENCHMARKS.md"
    put_section(document, "gpu", "2,000 images/s")
    before = document.read_text()
    done = gpu(tmp_path, "--document", str(document), "--workloads", "cached", "--batch-sizes", "32")
    assert "they stay" in done.stdout
    assert document.read_text() == before


def test_a_trial_on_the_cpu_never_goes_into_a_document(tmp_path):
    done = gpu(tmp_path, *SMALL, "--document", str(tmp_path / "BENCHMARKS.md"))
    assert done.returncode == 2
    assert "do not go into a document" in done.stderr
    assert not (tmp_path / "BENCHMARKS.md").exists()


@pytest.mark.slow
def test_the_loop_measures_what_runs_and_says_why_what_fails_does(tmp_path):
    done = gpu(tmp_path, *SMALL, "--modes", "eager", "graph", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "found.json").read_text())
    assert len(result["rows"]) == 10
    for row in result["rows"]:
        if row["mode"] == "eager":
            assert row["images_per_s"] > 0, row
        else:
            assert row["failed"] == "RuntimeError: CUDA graphs need a CUDA device"
    assert all(value > 0 for value in result["ceilings"].values())
    assert "the CPU: a trial, no figure" in done.stdout


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    words = ("--devices", "2", "--workloads", "layer4", "--modes", "eager", "--json", str(tmp_path / "found.json"))
    done = gpu(tmp_path, *SMALL, *words)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["devices"] == 2
    assert row["images_per_s"] > 0, row


def test_a_failure_is_a_row_that_says_why():
    row = measure(
        "head", mode="graph", batch_size=2, image_size=32, device=torch.device("cpu"), seconds=0.01
    )  # fmt: skip
    assert row["failed"] == "RuntimeError: CUDA graphs need a CUDA device"
    counted = {"head 2": {"operations": 1.0, "bytes": 1.0}}
    text = section(found(rows=[row | {"failed": "A: b | c"}], counted=counted), command="x")
    assert "failed: A: b \\| c" in text


def test_shares_are_of_one_device():
    # 2,000 images of 10 GFLOP are 20 TFLOP, of 800; of 0.2 GB are 400 GB, of 4,000.
    assert share(2000.0, 1e10, 8e14, 1) == pytest.approx(0.025)
    assert share(2000.0, 1e10, 8e14, 2) == pytest.approx(0.0125)
    line = next(line for line in section(found(), command="x").splitlines() if line.startswith("| everything"))
    assert line == "| everything | 32 | 1 | eager | 2,000 | 10 | 200 | 2.5 % | 10.0 % | 1.5 | 3.00 |"


def test_a_rate_is_runs_per_second():
    import time

    measured = rate(lambda: time.sleep(0.02), device=torch.device("cpu"), seconds=0.1)
    assert 20 < measured <= 50
    assert agreed(1.5, torch.device("cpu")) == 1.5


def test_a_section_is_put_in_its_place_and_replaced_there(tmp_path):
    document = tmp_path / "BENCHMARKS.md"
    assert section_in(document, "gpu") is None
    put_section(document, "gpu", "one")
    put_section(document, "other", "two")
    put_section(document, "gpu", r"three \1")
    assert document.read_text() == (
        "# Benchmarks\n\n<!-- gpu -->\nthree \\1\n<!-- /gpu -->\n\n<!-- other -->\ntwo\n<!-- /other -->\n"
    )
