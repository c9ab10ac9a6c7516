"""docs/freezing.md says what is so: its policies are policies, its tables the scripts' own, its facts hold."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scripts.freezing import peers, study

from frostline.freezing import FreezePolicy

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "freezing.md").read_text(encoding="utf-8")
FIGURES = ROOT / "docs" / "figures"


def between(begin: str, end: str) -> str:
    return TEXT.partition(begin)[2].partition(end)[0].strip()


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
def test_every_yaml_block_is_a_policy_that_comes_back_from_its_plain_form(block):
    policy = FreezePolicy.from_dict(yaml.safe_load(block))
    assert FreezePolicy.from_dict(policy.to_dict()) == policy


@pytest.mark.parametrize("text", re.findall(r"^\| `(\{.*?\})` \|", TEXT, re.MULTILINE))
def test_every_until_of_the_table_ends_a_phase(text):
    phases = [{"name": "one", "train": ["head"], "until": yaml.safe_load(text)}, {"name": "two", "train": ["all"]}]
    assert FreezePolicy.from_dict({"phases": phases}).phases[0].until is not None


def test_there_are_examples_of_both_forms():
    assert len(re.findall(r"```yaml\n", TEXT)) >= 2
    assert len(re.findall(r"^\| `(\{.*?\})` \|", TEXT, re.MULTILINE)) == 4


def test_every_preset_is_in_the_table_of_presets_and_no_other_is():
    rows = re.findall(r"^\| (`.*?) \|", TEXT.partition("### Presets")[2].partition("\n## ")[0], re.MULTILINE)
    named = {name for row in rows[1:] for name in re.findall(r"`(\w+)`", row)}
    assert named == {path.stem for path in (ROOT / "conf" / "freeze").glob("*.yaml")}


def test_every_batch_norm_mode_is_in_its_table():
    rows = re.findall(r"^\| `(\w+)` \| (?:stay|follow|estimated)", TEXT, re.MULTILINE)
    assert set(rows) == set(study.MODES)


def test_every_file_that_the_text_links_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).is_file(), target


def test_the_study_covers_every_preset_and_every_mode():
    presets = {path.stem for path in (ROOT / "conf" / "freeze").glob("*.yaml")} - {"auto", "custom", "file"}
    assert set(study.PRESETS) == presets


def test_the_table_of_the_study_is_what_its_runs_say():
    found = json.loads((FIGURES / "freezing_study.json").read_text(encoding="utf-8"))
    assert between(study.BEGIN, study.END) == study.markdown(study.summary(found))
    assert f"{found['setup']['labels_per_class']} labels a class" in TEXT
    assert f"{found['setup']['pretraining']['wanted']['images']:,} images of Fashion-MNIST" in TEXT


def test_the_table_of_peers_is_what_the_script_measured():
    found = json.loads((FIGURES / "freezing_peers.json").read_text(encoding="utf-8"))
    assert between(peers.BEGIN, peers.END) == peers.markdown(found)
    assert set(found) == set(peers.FACTS)


def test_summary_counts_only_seeds_that_every_row_has():
    runs = [
        {"preset": name, "batch_norm": mode, "seed": seed, "accuracy": 0.5 + seed / 10, "trainable_parameters": 3}
        for name, mode in study.rows()
        for seed in (0, 1, 2)
    ]
    lines = study.summary({"runs": runs[:-1]})
    assert {tuple(line["accuracies"]) for line in lines} == {(50.0, 60.0)}
    assert lines[0]["mean"] == 55.0
    assert lines[0]["sd"] == pytest.approx(50**0.5)


def test_the_few_labels_are_as_many_of_each_class_and_no_image_is_in_two_parts():
    source = study.FewDigits(labels=10, validation=5, seed=3)
    for split, count in (("train", 10), ("val", 5)):
        labels = source.dataset(split).labels
        assert [labels.count(label) for label in range(10)] == [count] * 10
    indices = [index for part in source._parts.values() for index in part]
    assert sorted(indices) == list(range(1797))


def test_the_tutorials_idiom_forgets_the_statistics_and_frostline_keeps_them():
    numbers = peers.tutorial()["numbers"]
    assert numbers["forgotten"] == pytest.approx(1 - 0.9**20, abs=1e-3)
    assert numbers["buffers_moved"] == numbers["buffers"] == 60
    assert numbers["frostline_buffers_moved"] == 0


def test_a_zero_gradient_moves_what_is_frozen_and_frostline_leaves_none():
    numbers = peers.zero_gradient()["numbers"]
    assert min(numbers["peer_sgd"], numbers["peer_adamw"]) > 0.01
    assert numbers["frostline_sgd"] == numbers["frostline_adamw"] == 0.0


@pytest.mark.slow
def test_lightnings_freeze_tests_worse_than_it_trains_and_frostline_the_same():
    numbers = peers.test_mode()["numbers"]
    assert numbers["peer_train"] - numbers["peer_test"] > 20
    assert numbers["frostline_train"] == numbers["frostline_test"]


@pytest.mark.slow
def test_after_unfreezing_lightnings_ranks_drift_apart_and_frostlines_do_not():
    numbers = peers.ranks()["numbers"]
    assert numbers["peer"] > 1e-3
    assert numbers["frostline"] == 0.0


@pytest.mark.slow
# Lightning's advice, and what torch 2.15 deprecates of what it calls.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec.*")
def test_lightnings_resume_freezes_again_and_frostlines_is_bit_identical():
    numbers = peers.resume()["numbers"]
    assert numbers["lightning"]["frozen_tensors"] > 0
    assert numbers["lightning"]["differing"] > 0
    assert numbers["frostline"]["frozen_tensors"] == numbers["frostline"]["differing"] == 0


@pytest.mark.slow
def test_the_study_runs(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "freezing" / "study.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("seed 0") == len(study.rows())
