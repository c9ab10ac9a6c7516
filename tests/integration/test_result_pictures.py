"""Pictures of a run's results: by the command, read back from the loggers, and without a change of the weights."""

import json

import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.conftest import FROSTLINE, SHORT, facts

PICTURES = ["calibration.svg", "confusion.svg", "curves.svg", "mistakes.png", "seen.png"]
OWN = ("data.batch_size=8", "trainer.limit_test_batches=4", "freeze=backbone")


def run(cli, tmp_path, name, *words):
    done = cli(*FROSTLINE, "train", *SHORT, *OWN, *words, env={"RUN_ID": name})
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs" / name


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_a_run_draws_its_results_for_folder_and_tensorboard_and_keeps_its_bits(cli, tmp_path):
    drawn = run(cli, tmp_path, "drawn", "callbacks.pictures=true", "logger=[csv,tensorboard]")
    assert sorted(path.name for path in (drawn / "pictures").iterdir()) == PICTURES
    with Image.open(drawn / "pictures/mistakes.png") as mistakes:
        assert mistakes.width >= 800
    confusion = (drawn / "pictures/confusion.svg").read_text()
    accuracy = facts(drawn)["results"]["test/accuracy"]
    assert f"32 test images, {100 * accuracy:.2f} % right" in confusion
    events = EventAccumulator(str(drawn / "tensorboard"), size_guidance={"images": 0}).Reload()
    names = [f"pictures/{name.partition('.')[0]}" for name in PICTURES]
    assert sorted(events.Tags()["images"]) == names
    plain = run(cli, tmp_path, "plain")
    assert not (plain / "pictures").exists()
    expected = weights(plain)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(drawn).items())
    _evaluate_draws_the_same(cli, tmp_path, drawn)


def _evaluate_draws_the_same(cli, tmp_path, drawn):
    words = (f"checkpoint={drawn / 'checkpoints/best.ckpt'}", "pictures=out", "output=out.json")
    done = cli(*FROSTLINE, "evaluate", *words)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [PICTURES[0], PICTURES[1], PICTURES[3]]
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    error = f"calibration error (ECE, 15 bins): {100 * results['test/calibration_error']:.2f} %"
    assert error in (tmp_path / "out/calibration.svg").read_text()


def test_two_processes_draw_each_image_once(cli, tmp_path):
    drawn = run(cli, tmp_path, "two", "callbacks.pictures=true", "device=cpu", "device.devices=2")
    accuracy = facts(drawn)["results"]["test/accuracy"]
    assert f"{100 * accuracy:.2f} % right" in (drawn / "pictures/confusion.svg").read_text()
