"""The feature cache as its user meets it: over processes, over the runs of a sweep, and over mistakes."""

import os
import re
from pathlib import Path

import pytest
import torch

from tests.integration.conftest import FROSTLINE, Cli, facts

WORDS = (
    "freeze=backbone",
    "augment=none",
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=null",
    "trainer.precision=32-true",
    "model.weights=none",
    "callbacks.progress_bar=false",
    "data.image_size=32",
    "cache.folder=features",
)


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(state, dict)
    return state


def equal(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_processes_share_the_work_and_end_with_the_bits_of_an_uncached_run(cli: Cli, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, more in {"plain": ("speed.feature_cache=false",), "kept": (), "again": ()}.items():
        done = cli(*FROSTLINE, "train", *WORDS, "device=cpu_ddp", *more, env={"RUN_ID": name})
        assert done.returncode == 0, done.stdout + done.stderr
    assert equal(runs / "plain", runs / "kept")
    assert equal(runs / "plain", runs / "again")
    assert facts(runs / "plain")["results"] == facts(runs / "kept")["results"] == facts(runs / "again")["results"]
    kept, again = (facts(runs / name)["features"] for name in ("kept", "again"))
    # Half of an epoch's 1,248 images, and what the 11 that an epoch leaves out may add.
    assert 624 <= kept["train"]["computed"] <= 635  # type: ignore[index]
    assert again["train"]["computed"] == again["val"]["computed"] == 0  # type: ignore[index]


@pytest.mark.slow
def test_bits_are_equal_where_a_batch_norm_is_the_first_to_train(cli: Cli, tmp_path: Path) -> None:
    few = ("data=synthetic", "data.length=40", "data.val_length=10", "data.test_length=8", "data.batch_size=8")
    for name, more in {"plain": ("speed.feature_cache=false",), "kept": (), "again": ()}.items():
        words = (*WORDS, *few, "freeze.batch_norm=drift", "test=false", "device=cpu")
        done = cli(*FROSTLINE, "train", *words, *more, env={"RUN_ID": name})
        assert done.returncode == 0, done.stdout + done.stderr
    assert equal(tmp_path / "runs/plain", tmp_path / "runs/kept")
    assert equal(tmp_path / "runs/plain", tmp_path / "runs/again")


@pytest.mark.slow
def test_the_runs_of_a_sweep_compute_each_image_once(cli: Cli, tmp_path: Path) -> None:
    sweep = cli(
        *FROSTLINE, "train", "-m", *WORDS, "optimizer.lr=0.1,0.01", "optimizer=sgd,adamw", env={"RUN_ID": "sweep"}
    )
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    computed = [facts(tmp_path / "runs/sweep" / str(job))["features"]["train"]["computed"] for job in range(4)]  # type: ignore[index]
    assert computed[0] >= 1248
    assert sum(computed) <= 1259
    assert len(list((tmp_path / "features").glob("*.features"))) == 3
    alone = cli(
        *FROSTLINE, "train", *WORDS, "optimizer.lr=0.01", "optimizer=adamw", "speed=plain",
        "speed.fused_optimizer=true", env={"RUN_ID": "alone"},
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    assert equal(tmp_path / "runs/alone", tmp_path / "runs/sweep/3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("speed.frozen_prefix=false",), "speed.feature_cache: needs speed.frozen_prefix=true"),
        (("speed=plain", "cache.views=4"), "cache.views: nothing is kept with speed.feature_cache=false"),
        (("augment=none", "cache.views=4"), "cache.views: augment=none makes one view"),
        (("augment.mixup=0.2", "cache.views=4"), "cache.views: mixup and cutmix"),
        (("cache.folder=file/features",), "/file/features` cannot be written (Not a directory)."),
        (("cache.limit_gb=0",), "cache.limit_gb"),
        (("cache.vews=4",), "Did you mean cache.views"),
        (("speed=slow",), "fast, plain"),
    ],
)
def test_mistakes_are_reported_before_anything_is_done(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").write_text("")
    done = cli(*FROSTLINE, "train", *words)
    assert done.returncode == 2
    assert message in re.sub(r"\s+", " ", done.stderr)
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["file"]
