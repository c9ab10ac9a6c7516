"""Speed and data wait: measured where they happen, logged under stable names, with advice where it would help."""

import json
import re
import sys
import time
from collections import namedtuple
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler
from tests.preloaded import run_ranks
from tests.quiet import quiet_trainer
from torch.utils.data import DataLoader, Dataset

from frostline.tracking.throughput import FETCH, Epoch, Throughput, data_advice, speed_text, summary

Keyed = namedtuple("Keyed", ["images", "rows", "targets"])


class Slow(Dataset):
    def __init__(self, delay):
        self.delay = delay

    def __len__(self):
        return 16

    def __getitem__(self, index):
        time.sleep(self.delay)
        return torch.zeros(1), index


class Net(lightning.LightningModule):
    def __init__(self, *, step=0.0, validation=0.0):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.delays = (step, validation)

    def training_step(self, batch, batch_idx):
        time.sleep(self.delays[0])
        return self.layer(batch[0]).sum()

    def validation_step(self, batch, batch_idx):
        time.sleep(self.delays[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(net, delay, *, collate=None, validate=False, **options):
    callback = Throughput()
    trainer = quiet_trainer(max_epochs=2, num_sanity_val_steps=0, callbacks=[callback], **options)
    val = DataLoader(Slow(0), batch_size=4) if validate else None
    trainer.fit(net, DataLoader(Slow(delay), batch_size=4, collate_fn=collate), val)
    return callback, trainer


def test_the_wait_for_data_is_measured_apart_from_the_step():
    """4 batches of 4 images: the wait is 4 x 20 ms a batch, the step 80 ms."""
    callback, trainer = fit(Net(step=0.08), 0.02)
    for epoch in callback.epochs:
        assert epoch.images == 16
        assert 0.32 <= epoch.waited < 0.32 + (epoch.seconds - 0.64)
        assert epoch.seconds >= 0.64
    assert trainer.logged_metrics.keys() >= {"speed/images_per_second", "speed/data_wait"}
    last = callback.epochs[-1]
    assert float(trainer.logged_metrics["speed/data_wait"]) == pytest.approx(last.waited / last.seconds, abs=1e-3)
    assert float(trainer.logged_metrics["speed/images_per_second"]) == pytest.approx(16 / last.seconds, rel=1e-2)
    assert trainer.callback_metrics.keys() >= {"speed/images_per_second", "speed/data_wait"}


def test_without_a_wait_the_share_is_small():
    callback, _ = fit(Net(step=0.2), 0.0)
    assert callback.facts()["data_wait"] < 0.1


class SaveAfter(lightning.Callback):
    def __init__(self, batch, path):
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 0 and batch_idx == self.batch:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before the epoch ended.*")
def test_an_epoch_that_is_gone_on_with_is_measured_from_there(tmp_path):
    options = {"accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    path = tmp_path / "half.ckpt"
    images = DataLoader(Slow(0), batch_size=4)
    lightning.Trainer(**options, **quiet, callbacks=[SaveAfter(1, path)]).fit(Net(), images)
    callback = Throughput()
    began = time.perf_counter()
    trainer = lightning.Trainer(**options, **quiet, callbacks=[callback])
    trainer.fit(Net(step=0.05), images, ckpt_path=path, weights_only=True)
    took = time.perf_counter() - began
    first, second = callback.epochs
    assert (first.images, second.images) == (8, 16)
    assert 0.1 <= first.seconds <= took
    assert 0.2 <= second.seconds <= took


def test_validation_is_no_training_time():
    callback, _ = fit(Net(validation=0.2), 0.0, validate=True)
    assert all(epoch.seconds < 0.4 for epoch in callback.epochs)  # 4 validation batches take 0.8 s


def test_batches_are_counted_by_their_targets():
    """Of a batch of features the images may be fewer than the targets."""
    callback, _ = fit(
        Net(), 0.0, collate=lambda items: Keyed(torch.zeros(1, 1), [0], torch.tensor([target for _, target in items]))
    )
    assert [epoch.images for epoch in callback.epochs] == [16, 16]


def test_a_profiler_of_the_users_still_works_and_is_given_back():
    profiler = SimpleProfiler()
    _, trainer = fit(Net(), 0.001, profiler=profiler)
    assert len(profiler.recorded_durations[FETCH]) == 8
    assert trainer.profiler is profiler


def test_a_profiler_is_given_back_after_an_error():
    class Broken(Net):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("broken")

    profiler, net = SimpleProfiler(), Broken()
    with pytest.raises(RuntimeError, match="broken"):
        fit(net, 0.0, profiler=profiler)
    assert net.trainer.profiler is profiler


def test_the_facts_are_plain_and_add_up():
    callback = Throughput()
    assert callback.facts() == {}
    callback.epochs = [Epoch(100, 2.0, 1.0), Epoch(100, 3.0, 0.25)]
    assert json.loads(json.dumps(callback.facts())) == {
        "images_per_second": 40.0,
        "data_wait": 0.25,
        "seconds": 5.0,
        "seconds_waited": 1.25,
        "epochs": [
            {"images_per_second": 50.0, "data_wait": 0.5},
            {"images_per_second": 33.33, "data_wait": 0.0833},
        ],
    }


def facts(share, seconds=100.0):
    return {"images_per_second": 1234.5, "data_wait": share, "seconds_waited": share * seconds}


class TestAdvice:
    def test_none_where_there_is_little_to_win(self):
        assert data_advice(facts(0.2), workers=0, cores=16, cacheable=True) == ""
        assert data_advice(facts(0.9, seconds=5), workers=0, cores=16, cacheable=True) == ""

    @pytest.mark.parametrize(
        ("machine", "expected"),
        [
            ({"workers": 0, "cores": 2, "cacheable": True}, "help: data.decoded_cache=FOLDER (keeps"),
            ({"workers": 0, "cores": 16, "cacheable": False}, "help: data.workers=8 (now 0)."),
            ({"workers": 1, "cores": 4, "cacheable": True}, "runs), or data.workers=3 (now 1)."),
            ({"workers": 0, "cores": 2, "cacheable": False}, "help: a smaller data.image_size, or a lighter augment"),
            ({"workers": 8, "cores": 16, "cacheable": False}, "help: a smaller data.image_size"),
        ],
    )
    def test_what_fits_the_machine(self, machine, expected):
        text = data_advice(facts(0.5), **machine)
        assert text.startswith("Training waited for data for 50 s. ")
        assert expected in text
        assert text.count("\n") == 0

    def test_in_the_report(self):
        assert speed_text(facts(0.034)) == "speed: 1,234 images/s in training, 3 % of the time waiting for data"
        assert speed_text(facts(0.034), advice="Do this.").endswith("data\nDo this.")


RANK = """
import sys, time, torch
sys.path.insert(0, {root!r})
from tests.tracking.test_throughput import Net, Slow, Throughput, DataLoader, quiet_trainer

class OneSlow(Slow):
    def __getitem__(self, index):
        import os
        time.sleep(0.05 if os.environ["LOCAL_RANK"] == "1" else 0.0)
        return torch.zeros(1), index

callback = Throughput()
trainer = quiet_trainer(devices=2, strategy="ddp", max_epochs=1, callbacks=[callback])
trainer.fit(Net(), DataLoader(OneSlow(0), batch_size=4))
print(f"RANK {{trainer.global_rank}} {{callback.epochs[0].images}} {{callback.epochs[0].waited:.6f}}", flush=True)
"""


def test_ranks_show_the_longest_wait_and_all_images(tmp_path):
    """Rank 1 reads 8 images of 50 ms each; rank 0, which waits for it in the gradient's average, reports it."""
    script = tmp_path / "ranks.py"
    script.write_text(RANK.format(root=str(Path(__file__).parents[2])))
    ranks = run_ranks([sys.executable, script], output=tmp_path, seconds=120)
    found = [pair for rank in ranks for pair in re.findall(r"RANK \d (\d+) (\d+\.\d{6})", rank.stdout)]
    assert len(found) == 2, [rank.stderr for rank in ranks]
    assert [images for images, _ in found] == ["16", "16"]
    assert found[0] == found[1]
    assert float(found[0][1]) >= 0.4


def test_summary_weighs_epochs_by_their_time():
    assert summary([Epoch(10, 1.0, 1.0), Epoch(10, 9.0, 0.0)]) == {"images_per_second": 2.0, "data_wait": 0.1}
