"""The benchmark's peers that are as fast as an expert makes them, and the tables that hold their times."""

import json
import os
import subprocess
import sys

import pytest
import torch
from scripts.benchmark.contest.competitors import FROSTLINE, competitors, peer_command
from scripts.benchmark.contest.images import make_folder
from scripts.benchmark.contest.results import rows, target_results
from scripts.write_docs import wall_time_tables
from tests.benchmark.test_contest import CONTEST, report, run
from torchvision.models import resnet18


def test_the_experts_peers_have_no_second_form_and_count_in_no_target(tmp_path):
    assert competitors("w1a", chosen=["expert", "sklearn"], fast_peers=True) == ["expert", "sklearn"]
    assert competitors("w3", chosen=["expert", "sklearn"], fast_peers=True) == ["expert"]
    lines = [run("w1a", FROSTLINE, 10.0), run("w1a", "plain", 30.0), run("w1a", "plain+fast", 20.0)]
    with_experts = [*lines, run("w1a", "expert", 8.0), run("w1a", "sklearn", 7.0), run("w4", FROSTLINE, 12.0)]
    assert target_results(rows(lines)) == [v for v in target_results(rows(with_experts)) if v.text.startswith("W1a")]
    assert [row.competitor for row in rows(with_experts) if row.workload == "w1a"][-2:] == ["sklearn", "expert"]
    # A linear probe has no sweep over optimizers.
    assert {row.competitor for row in rows(with_experts) if row.workload == "w4"} == {
        FROSTLINE, "plain", "plain+fast", "expert"
    }  # fmt: skip


def test_the_report_has_the_ratio_to_the_experts_script_where_it_ran(tmp_path):
    lines = [CONTEST, run("w1a", FROSTLINE, 10.0), run("w1a", "plain", 30.0)]
    assert "expert" not in report(tmp_path, *lines)
    text = report(tmp_path, *lines, run("w1a", "expert", 8.0))
    assert "| others | runs | × expert |" in text
    [ours] = [line for line in text.splitlines() if line.startswith("| **frostline** |")]
    assert ours.endswith("| 1 | 0.80 |")
    assert "× expert: how many times as much the script takes" in text


def test_the_wall_times_of_each_number_of_images_have_a_table(tmp_path):
    smaller = {**CONTEST, "train_images": 640, "val_images": 160}
    report(tmp_path, CONTEST, run("w1a", FROSTLINE, 27.0), run("w1a", "plain", 337.0), run("w2", FROSTLINE, 80.0))
    text = report(tmp_path, smaller, run("w1a", FROSTLINE, 12.0), run("w1a", "expert", 11.0))
    full, small, legend = wall_time_tables(text)
    assert full.splitlines() == [
        "| wall seconds | W1a | W2 |",
        "| --- | --- | --- |",
        "| **frostline** | 27.0 | 80.0 |",
        "| plain PyTorch loop (tutorial) | 337.0 |  |",
    ]
    assert small.splitlines() == [
        "| wall seconds, 640 + 160 images | W1a |",
        "| --- | --- |",
        "| **frostline** | 12.0 |",
        "| script by hand (expert) | 11.0 |",
    ]
    assert legend.startswith("- W1a: head only")


@pytest.mark.parametrize(("workload", "steps"), [("w1a", 5), ("w1b", 5), ("w2", 1), ("w3", 4)])
@pytest.mark.slow
def test_the_experts_script_takes_the_steps_of_the_others_and_keeps_the_frozen_part(tmp_path, workload, steps):
    folder = make_folder(tmp_path / "images", train_images=40, val_images=10)
    torch.save(resnet18(num_classes=10).state_dict(), tmp_path / "w.pth")
    command = peer_command("expert", workload, data=folder, weights=tmp_path / "w.pth", output=tmp_path)
    command[0] = sys.executable
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == steps
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("w.pth", "model.pt"))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == ({"fc"} if workload in ("w1a", "w1b") else {name.partition(".")[0] for name in before})
