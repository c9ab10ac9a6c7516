"""The benchmark: who runs what, and what its report makes of given results."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from scripts.benchmark import overhead
from scripts.benchmark.contest.__main__ import Benchmark, main, read_options
from scripts.benchmark.contest.competitors import (
    FOUR_VIEWS,
    FROSTLINE,
    PEERS,
    REQUIREMENTS,
    STANDARD,
    TITLES,
    competitors,
    frostline_command,
    peer_command,
    python_of,
    reached_by_frostline,
)  # fmt: skip
from scripts.benchmark.contest.images import make_folder
from scripts.benchmark.contest.peers.task import SWEEP, WORKLOADS
from scripts.benchmark.contest.report import write_report
from scripts.benchmark.contest.results import bare_seconds, images_seen, newest, read_lines, rows, target_results
from scripts.benchmark.contest.weights import make_weights
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

from frostline.commands.help import default_config
from frostline.freezing.policy import FreezePolicy

ROOT = Path(__file__).parents[2]
ALL = [FROSTLINE, *PEERS]
LIMITS = {
    "kind": "limits",
    "precision": "bfloat16",
    "forward": {"wall": 100.0, "cpu": 50.0},
    "step": {"wall": 25.0, "cpu": 12.5},
    "product": {"wall": 726.0, "cpu": 363.0},
    "product_float32": {"wall": 150.0, "cpu": 75.0},
    "loading_centre": {"frostline": {"wall": 900.0}, "plain": {"wall": 300.0}},
    "loading_crop": {"frostline": {"wall": 800.0}, "plain": {"wall": 400.0}},
    "forward_gflop": 3.63,
}
CONTEST = {
    "kind": "contest", "train_images": 2000, "val_images": 500, "threads": None, "cores": 2, "processor": "A processor",
    "memory_gib": 24.0, "versions": {"torch": "2.15.0", "timm": "1.0"}, "commit": "abc1234",
    "when": "2026-11-23T06:30:00+00:00", "command": "typed",
}  # fmt: skip


def run(workload: str, competitor: str, wall: float, *, repeat: int = 0, cpu: float | None = None, **more) -> dict:
    given = {"wall": wall, "cpu": 2 * wall if cpu is None else cpu, "start_wall": 2.0, "start_cpu": 3.0}
    given |= {"peak_pss": 1e9, "max_rss": 1e9, "accuracy": 0.5, "steps": 62, "others": 0.01}
    return {"kind": "run", "workload": workload, "contestant": competitor, "repeat": repeat, **given, **more}


def results(tmp_path: Path, *lines: dict) -> Path:
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def report(tmp_path: Path, *lines: dict) -> str:
    document = tmp_path / "BENCHMARKS.md"
    write_report(results(tmp_path, *lines), document=document, picture=tmp_path / "figures" / "b.svg")
    return document.read_text()


# Who runs what.


def test_every_peer_has_a_script_a_title_and_pinned_packages():
    pinned = {line.partition("==")[0] for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")}
    for name, peer in PEERS.items():
        assert {name, f"{name}+fast"} <= set(TITLES)
        assert (ROOT / "scripts" / "benchmark" / "contest" / "peers" / peer.script).is_file()
        assert set(peer.packages) <= set(pinned)


@pytest.mark.parametrize("package", ["torch", "torchvision", "lightning", "torchmetrics", "pillow", "numpy"])
def test_peers_run_on_frostlines_versions(package):
    def lines(file: Path) -> set[str]:
        return {line for line in file.read_text().splitlines() if line.startswith(f"{package}==")}

    assert lines(REQUIREMENTS) == lines(ROOT / "constraints.txt") != set()


def test_only_w2_has_the_peers_without_freezing_and_only_w1b_the_cached_views():
    runs = {workload: competitors(workload, chosen=ALL, fast_peers=False) for workload in WORKLOADS}
    assert runs["w2"] == [name for name in ALL if name != "sklearn"]
    assert runs["w3"] == [FROSTLINE, "plain", "lightning", "fastai", "hf", "expert"]
    assert runs["w1b"] == [FROSTLINE, FOUR_VIEWS, "plain", "lightning", "fastai", "hf", "expert"]
    assert competitors("w2", chosen=["plain"], fast_peers=True) == ["plain", "plain+fast"]


def test_the_sweep_is_twelve_settings_with_the_standard_one_among_them():
    assert len(set(SWEEP)) == WORKLOADS["w4"].runs == 12
    assert STANDARD in SWEEP


@pytest.mark.parametrize("workload", [name for name in WORKLOADS if name != "w4"])
@pytest.mark.parametrize("name", [FROSTLINE, FOUR_VIEWS])
def test_frostlines_command_is_a_config_that_says_the_workload(tmp_path, workload, name):
    paths = {"data": tmp_path, "weights": tmp_path / "w.pth", "output": tmp_path}
    python, script, *overrides = frostline_command(name, workload, **paths)
    assert (python, script) == (sys.executable, str(ROOT / "train.py"))
    settings = default_config("train", tuple(overrides))
    task = WORKLOADS[workload]
    assert settings["trainer"]["max_epochs"] == task.epochs
    assert settings["augment"]["name"] == ("crop" if task.augment else "none")
    sgd = {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False, "dampening": 0.0}
    assert sgd.items() <= settings["optimizer"].items()
    assert settings["scheduler"]["name"] == "constant"
    images = settings["data"]
    assert (images["image_size"], round(images["image_size"] * images["resize"]), images["batch_size"]) == (
        224,
        256,
        32,
    )
    assert settings["cache"]["folder"] == str(tmp_path / "cache")
    assert settings["cache"]["views"] == (4 if name == FOUR_VIEWS else 0)
    policy = settings["freeze"]
    if workload == "w3":
        policy = yaml.safe_load(Path(policy["path"]).read_text())
        phases = FreezePolicy.from_dict(policy).phases
        assert [phase.until.epochs if phase.until else None for phase in phases] == [2, 1, None]
        assert [list(phase.train) for phase in phases] == [["head"], ["from:layer4"], ["all"]]
    else:
        assert policy["train"] == (["all"] if workload == "w2" else ["head"])


def test_frostlines_sweep_is_one_multirun_over_the_peers_settings(tmp_path):
    command = frostline_command(FROSTLINE, "w4", data=tmp_path, weights=tmp_path, output=tmp_path)
    assert command[2] == "-m"
    swept = {key: value.split(",") for key, value in (o.split("=", 1) for o in command[3:]) if "," in value}
    assert swept == {
        "optimizer": ["sgd", "rmsprop"],
        "optimizer.momentum": ["0.0", "0.9"],
        "optimizer.lr": ["0.001", "0.003", "0.01"],
    }
    assert not [o for o in command if o == "optimizer=sgd"]


def test_a_peers_command_says_its_setting(tmp_path):
    paths = {"data": tmp_path, "weights": tmp_path / "w.pth", "output": tmp_path}
    command = peer_command("plain+fast", "w4", **paths, setting=("rmsprop", 0.0, 0.003), seed=2)
    assert command[-9:] == [
        "--optimizer", "rmsprop", "--momentum", "0.0", "--lr", "0.003", "--seed", "2", "--fast"
    ]  # fmt: skip


def test_every_peer_takes_the_seed(tmp_path):
    paths = {"data": tmp_path, "weights": tmp_path / "w.pth", "output": tmp_path}
    assert "seed=2" in frostline_command(FROSTLINE, "w2", **paths, seed=2)
    for peer in PEERS.values():
        assert "seed(args.seed)" in (ROOT / "scripts/benchmark/contest/peers" / peer.script).read_text().replace(
            "seed_everything", "seed"
        )


def test_the_accuracies_of_several_seeds_are_shown_with_their_range(tmp_path):
    runs = [run("w2", FROSTLINE, 27.0, repeat=seed, accuracy=value) for seed, value in enumerate((0.7, 0.9, 0.8))]
    text = report(tmp_path, CONTEST, *runs, run("w2", "plain", 54.0))
    assert "| 80.0 % (70.0 to 90.0) |" in text
    assert "| 50.0 % |" in text


def test_a_peer_without_its_environment_is_refused_or_runs_in_frostlines(monkeypatch, tmp_path):
    monkeypatch.setattr("scripts.benchmark.contest.competitors.VENVS", tmp_path)
    assert python_of("plain+fast") == Path(sys.executable)
    with pytest.raises(ValueError, match="make benchmark"):
        python_of("fastai")


def test_the_last_accuracy_of_the_run_with_the_standard_setting_counts(tmp_path):
    for place, (optimizer, momentum, lr) in enumerate(SWEEP):
        folder = tmp_path / "runs" / "one" / str(place)
        folder.mkdir(parents=True)
        (folder / "facts.json").write_text('{"steps": 310}')
        settings = {"optimizer": {"name": optimizer, "momentum": momentum, "lr": lr}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        (folder / "metrics.csv").write_text(f"epoch,val/accuracy\n0,0.1\n1,\n1,0.{place:02d}\n")
    place = SWEEP.index(STANDARD)
    assert reached_by_frostline("w4", tmp_path) == {"accuracy": place / 100, "steps": 310}
    with pytest.raises(ValueError, match="12 run folders"):
        reached_by_frostline("w1a", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "w1a,w9"], "w9: choose from w1a, w1b, w2, w3, w4"),
        (["--contestants", "keras"], "keras: choose from frostline, plain"),
        (["--train-images", "31"], "at least 32 training images"),
    ],
)
def test_wrong_options_list_the_choices(capsys, arguments, message):
    with pytest.raises(SystemExit):
        read_options(arguments)
    assert message in capsys.readouterr().err


# What all start from.


def test_given_weights_stay_as_they_are_but_for_a_head_of_ten_classes(tmp_path):
    given = resnet18().state_dict()
    torch.save(given, tmp_path / "given.pth")
    make_weights(tmp_path / "made.pth", images=tmp_path, given=tmp_path / "given.pth")
    made = torch.load(tmp_path / "made.pth", weights_only=True)
    assert made["fc.weight"].shape == (10, 512)
    assert all(torch.equal(made[name], given[name]) for name in given if not name.startswith("fc."))


@pytest.mark.slow
def test_the_initial_weights_have_batch_norms_that_fit_the_images(tmp_path):
    """What comes out of the first convolution spreads as the first batch norm takes it to."""
    folder = make_folder(tmp_path / "images", train_images=40, val_images=10)
    make_weights(tmp_path / "w.pth", images=folder, steps=2)
    network = resnet18(num_classes=10)
    network.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))
    way = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
         transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )  # fmt: skip
    images = torch.stack([image for image, _ in ImageFolder(folder / "train", way)])
    with torch.no_grad():
        spread = (network.conv1(images).var((0, 2, 3)) / network.bn1.running_var).sqrt()
    assert 0.8 < float(spread.median()) < 1.25


# What becomes of the results.


def test_medians_over_repeats_and_a_run_done_again_replaces_the_one_before(tmp_path):
    lines = [run("w2", "plain", wall, repeat=n) for n, wall in enumerate([50.0, 10.0, 30.0])]
    lines.append(run("w2", "plain", 20.0, repeat=0))
    file = results(tmp_path, *lines)
    assert len(newest(read_lines(file))) == 3
    [row] = rows(read_lines(file))
    assert (row["wall"], row["cpu"], row.repeats) == (20.0, 40.0, 3)


def test_a_line_cut_off_at_the_end_is_left_out_and_one_in_the_middle_is_an_error(tmp_path):
    file = results(tmp_path, run("w2", "plain", 1.0))
    whole = file.read_text()
    file.write_text(whole + whole[:20])
    assert len(read_lines(file)) == 1
    file.write_text(whole[:20] + "\n" + whole)
    with pytest.raises(json.JSONDecodeError):
        read_lines(file)


def test_a_sweep_that_a_peer_did_not_run_is_twelve_times_its_w1a():
    lines = [
        run("w1a", FROSTLINE, 20.0),
        run("w1a", "plain", 100.0),
        run("w4", FROSTLINE, 10.0),
        run("w1a", "hf", 90.0),
    ]
    found = {(row.workload, row.competitor): row for row in rows([*lines, run("w4", "hf", 1000.0)])}
    assert found["w4", "plain"]["wall"] == 1200.0
    assert found["w4", "plain"].multiplied == 12
    assert found["w4", "plain"]["peak_pss"] == 1e9
    assert found["w4", "hf"]["wall"] == 1000.0
    assert found["w4", FROSTLINE]["wall"] == 10.0


def test_targets_are_against_the_fastest_peer_by_wall_and_by_processor_time():
    lines = [
        run("w2", FROSTLINE, 10.0, cpu=20.0, peak_pss=9e8),
        run("w2", "plain", 30.0, cpu=40.0),
        run("w2", "timm", 25.0, cpu=60.0),
        run("w2", "plain+fast", 10.5, cpu=24.0, peak_pss=5e8),
    ]
    as_written, fast, memory = target_results(rows(lines))
    assert as_written.ratios == {"wall": 2.5, "cpu": 2.0}
    assert as_written.against == {"wall": "timm", "cpu": "plain"}
    assert not as_written.met  # 2.0 is below 2.2
    assert fast.ratios == {"wall": 1.05, "cpu": 1.2}
    assert fast.against == {"wall": "plain+fast", "cpu": "plain+fast"}
    assert not fast.met
    assert memory.ratios == {"memory": pytest.approx(1 / 0.9)}
    assert memory.met


def test_no_verdict_without_a_peer_or_without_fast_ones():
    assert target_results(rows([run("w2", FROSTLINE, 10.0)])) == []
    texts = [verdict.text for verdict in target_results(rows([run("w2", FROSTLINE, 10.0), run("w2", "plain", 20.0)]))]
    assert len(texts) == 2
    assert not any("bf16" in text for text in texts)


def test_what_the_bare_model_would_need():
    sizes = {"train": 2000, "val": 500}
    assert bare_seconds("w1a", **sizes, limits=LIMITS) == pytest.approx(5 * 25)
    assert bare_seconds("w2", **sizes, limits=LIMITS) == pytest.approx(2000 / 25 + 500 / 100)
    assert bare_seconds("w3", **sizes, limits=LIMITS) == pytest.approx(3 * 20 + 80 + 4 * 5)
    assert bare_seconds("w4", **sizes, limits=LIMITS) == pytest.approx(12 * 125)
    assert images_seen("w3", **sizes) == 4 * 2500


def test_the_report_has_each_row_its_ratios_and_the_verdicts(tmp_path):
    text = report(
        tmp_path, CONTEST, LIMITS, run("w1a", FROSTLINE, 27.0, cpu=50.0), run("w1a", "plain", 337.0, cpu=640.0),
        run("w1a", "plain", 337.0, cpu=640.0, repeat=1),
    )  # fmt: skip
    row = next(line for line in text.splitlines() if line.startswith("| **frostline** "))
    # 5 epochs of 2,500 images in 27 s; 125 s of bare model in the 25 s after the start.
    assert row == ("| **frostline** | 27.0 | 12.48 | 50.0 | 12.80 | 3.0 | 463.0 | 1,000 | 50.0 % | 500 % | 1 % | 1 |")
    assert "| W1a, peers as written | ≥ 12 | 12.48 (plain) | 12.80 (plain) |  | met |" in text
    assert "| W1a, peak memory below the leanest peer's | > 1 |  |  | 1.00 (plain) | **missed** |" in text
    assert "The frozen model does 50 % of the operations per second" in text
    assert "2,000 + 500 images, all 2 threads" in text
    assert "A processor, 2 cores, 24 GiB; frostline at abc1234; torch 2.15.0, timm 1.0." in text
    assert "```\ntyped\n```" in text
    assert "own environment" not in text
    assert "In frostline's own environment, where their start may be slower: plain." in report(
        tmp_path, {**CONTEST, "in_frostlines_environment": ["plain"]}, run("w2", "plain", 1.0)
    )


def test_the_report_replaces_its_section_and_nothing_else(tmp_path):
    document = tmp_path / "BENCHMARKS.md"
    document.write_text("# Benchmarks\n\nbefore\n\n<!-- contest -->\nold\n<!-- /contest -->\n\nafter\n")
    text = report(tmp_path, CONTEST, run("w2", FROSTLINE, 27.0))
    assert text.startswith("# Benchmarks\n\nbefore\n\n<!-- contest -->\n## Beside its competitors")
    assert text.endswith("<!-- /contest -->\n\nafter\n")
    assert "old" not in text
    assert report(tmp_path, CONTEST, run("w2", FROSTLINE, 27.0)) == text


def test_another_number_of_images_has_a_section_of_its_own_without_targets(tmp_path):
    smaller = {**CONTEST, "train_images": 480, "val_images": 120, "command": "smaller"}
    text = report(tmp_path, CONTEST, run("w2", FROSTLINE, 27.0), run("w2", "plain", 54.0))
    both = report(tmp_path, smaller, run("w2", FROSTLINE, 7.0), run("w2", "plain", 14.0))
    assert both.startswith(text.rstrip())
    added = both[len(text) :]
    assert added.strip().startswith("<!-- contest-480-120 -->\n## Beside its competitors, 480 + 120 images\n")
    assert "| W2, peers as written |" in text
    assert "| W2, peers as written |" not in added


@pytest.mark.parametrize(("sizes", "name"), [((2000, 500), "benchmark"), ((480, 120), "benchmark-480-120")])
def test_each_number_of_images_has_a_picture_of_its_own(tmp_path, monkeypatch, sizes, name):
    monkeypatch.setattr("scripts.benchmark.contest.__main__.ROOT", tmp_path)
    file = results(tmp_path, CONTEST, run("w2", FROSTLINE, 27.0))
    words = ["--report", "--results", str(file), "--document", str(tmp_path / "BENCHMARKS.md")]
    assert main([*words, "--train-images", str(sizes[0]), "--val-images", str(sizes[1])]) == 0
    assert [path.name for path in (tmp_path / "docs" / "figures").iterdir()] == [f"{name}.svg"]
    assert f"(docs/figures/{name}.svg)" in (tmp_path / "BENCHMARKS.md").read_text()


def test_the_contest_in_the_docs_is_what_the_kept_lines_give(tmp_path):
    page = ROOT / "docs" / "benchmarks-history.md"
    document = tmp_path / "docs" / page.name
    document.parent.mkdir()
    shutil.copy(page, document)
    write_report(
        ROOT / "docs" / "figures" / "benchmark.jsonl",
        document=document,
        picture=tmp_path / "docs" / "figures" / "benchmark.svg",
    )
    assert document.read_text() == page.read_text()


def test_the_report_names_every_command_version_and_commit_that_gave_its_runs(tmp_path):
    later = {**CONTEST, "command": "typed later", "commit": "def5678", "versions": {"torch": "2.15.0", "fastai": "2.8"}}
    text = report(tmp_path, CONTEST, run("w2", FROSTLINE, 27.0), later, run("w2", "plain", 54.0), CONTEST)
    assert "```\ntyped\ntyped later\n```" in text
    assert "frostline at abc1234, def5678; torch 2.15.0, timm 1.0, fastai 2.8." in text


def test_the_report_without_markers_comes_last_and_without_runs_is_refused(tmp_path):
    (tmp_path / "BENCHMARKS.md").write_text("# Benchmarks\n\nother\n")
    text = report(tmp_path, CONTEST, run("w2", FROSTLINE, 27.0))
    assert text.startswith("# Benchmarks\n\nother\n\n<!-- contest -->\n")
    with pytest.raises(ValueError, match="holds no run"):
        report(tmp_path, CONTEST)


def test_the_picture_has_a_bar_for_each_row_words_as_text_and_is_the_same_again(tmp_path):
    lines = [CONTEST, run("w1a", FROSTLINE, 27.0), run("w1a", "plain", 337.0), run("w2", FROSTLINE, 100.0)]
    text = report(tmp_path, *lines)
    picture = tmp_path / "figures" / "b.svg"
    assert "(figures/b.svg)" in text
    drawn = picture.read_text()
    words = re.findall(r"<text[^>]*>(.*?)</text>", drawn)
    for word in ("frostline", "plain PyTorch loop (tutorial)", "27.0 s", "337.0 s", "100.0 s"):
        assert any(word in each for each in words), word
    report(tmp_path, *lines)
    assert picture.read_text() == drawn


def test_an_interrupted_contest_goes_on_where_it_stopped(tmp_path, monkeypatch):
    arguments = [
        "--folder",
        str(tmp_path),
        "--workloads",
        "w1a,w2",
        "--contestants",
        "frostline,plain",
        "--repeats",
        "2",
    ]
    options = read_options(arguments)
    assert options.results == tmp_path / "results-2000-500-threads-all.jsonl"
    options.results.write_text(
        json.dumps(run("w1a", FROSTLINE, 1.0)) + "\n" + json.dumps(run("w2", "plain", 1.0)) + "\n"
    )
    ran = []
    monkeypatch.setattr(Benchmark, "run", lambda self, workload, name, repeat: ran.append((repeat, workload, name)))
    Benchmark(options).run_all()
    first = [(0, "w1a", "plain"), (0, "w2", FROSTLINE)]
    # The second round starts with the other one.
    second = [(1, workload, name) for workload in ("w1a", "w2") for name in ("plain", FROSTLINE)]
    assert ran == first + second
    ran.clear()
    options.again = True
    Benchmark(options).run_all()
    assert len(ran) == 8


def test_what_overhead_reports_of_known_times():
    long = {"trainer": [1.010, 2.02], "by hand": [1.0, 2.0], "bare": [0.95, 1.9]}
    short = {"trainer": [0.104, 0.2], "by hand": [0.1, 0.19], "bare": [0.1, 0.18]}
    found = overhead.figures(long, short)
    assert found["wall"]["overhead"] == pytest.approx(0.01)
    assert found["wall"]["overhead_ms"] == pytest.approx(4.0)
    assert found["wall"]["overhead_from_short_steps"] == pytest.approx(0.004)
    assert found["cpu"]["bare_rate_reached"] == pytest.approx(1.9 / 2.02)
    assert "| overhead of the loop, by blocks (target ≤ 1 %) | +1.00% | +1.00% |" in overhead.text(found, setting="x")


@pytest.mark.slow
def test_the_overhead_is_measured_with_the_real_trainer(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    command = [
        "scripts/benchmark/overhead.py",
        "--blocks",
        "2",
        "--steps",
        "1",
        "--image-size",
        "32",
        "--small-steps",
        "2",
    ]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert set(found["step_ms"]) == {"trainer", "by hand", "bare"}
    assert 0.2 < found["cpu"]["bare_rate_reached"] < 1.5


@pytest.mark.slow
def test_frostline_and_the_plain_loop_run_end_to_end(tmp_path, monkeypatch):
    """In frostline's own environment alone."""
    monkeypatch.setattr("scripts.benchmark.contest.competitors.VENVS", tmp_path / "none")
    document, picture, weights = tmp_path / "BENCHMARKS.md", tmp_path / "b.svg", tmp_path / "random.pth"
    torch.save(resnet18().state_dict(), weights)
    code = main(
        [
            "--folder", str(tmp_path / "work"), "--train-images", "32", "--val-images", "16", "--repeats", "1",
            "--contestants", "frostline,plain", "--workloads", "w1a", "--no-limits", "--threads", "1",
            "--weights", str(weights), "--document", str(document), "--picture", str(picture),
        ]
    )  # fmt: skip
    assert code == 0
    [file] = (tmp_path / "work").glob("*.jsonl")
    lines = [line for line in read_lines(file) if line["kind"] == "run"]
    assert [(line["contestant"], line["steps"]) for line in lines] == [(FROSTLINE, 5), ("plain", 5)]
    for line in lines:
        assert line["cpu"] > line["start_cpu"] > 0.5
        assert 0 <= line["accuracy"] <= 1
        assert 3e8 < line["peak_pss"] < 8e9
    assert "### W1a: head only" in document.read_text()
    assert picture.exists()
    assert not list((tmp_path / "work").glob("run-*"))
