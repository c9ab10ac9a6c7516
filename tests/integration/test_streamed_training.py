"""Training on shards: exact resume, ranks that share the images, and the commands."""

import os
import socket
import warnings
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from frostline.data.chunk_writer import ChunkWriter
from frostline.data.datamodule import ImageDataModule
from frostline.data.image_folder import ImageFolder
from frostline.data.loading import Loading
from frostline.data.source import SPLITS
from frostline.data.streaming import Streaming
from frostline.data.transforms import Augmentation
from frostline.resume import ExactResume
from tests.data.conftest import store, upload  # noqa: F401 - a fixture
from tests.integration.conftest import FROSTLINE, SHORT, Cli, facts
from tests.test_resume import Net

EPOCHS, BATCH = 2, 8
STEPS = 12  # an epoch: 96 of 102 training images


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for index in range(150):
        path = tmp_path / "photos" / ("fire", "fog", "ice")[index % 3] / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (20, 22, 3), dtype=np.uint8)).save(path)
    source = ImageFolder(path=tmp_path / "photos")
    images = {split: source.dataset(split) for split in SPLITS}
    ChunkWriter(chunk_size=0.003).write(images, classes=source.classes, output=tmp_path / "shards")  # type: ignore[arg-type]
    return tmp_path / "shards"


def data_of(path: str) -> ImageDataModule:
    return ImageDataModule(
        source=Streaming(path=path, window=8),
        image_size=16,
        batch_size=BATCH,
        augment=Augmentation(name="standard"),
        loading=Loading(workers=0),
        seed=3,
    )


def rank_runs(rank: int, world_size: int, folder: str, port: int, path: str) -> None:
    """A rank's three runs: one whole, one that stops within its second epoch, and the one that resumes it."""
    warnings.simplefilter("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    whole, stop = EPOCHS * STEPS, STEPS + 5
    for run, steps, checkpoint in (("whole", whole, None), ("part", stop, None), ("rest", whole, "part")):
        torch.manual_seed(11 if checkpoint is None else 12)
        net, data = Net(), data_of(path)
        saver = ModelCheckpoint(
            f"{folder}/{run}", filename="{step}", every_n_train_steps=stop, save_top_k=-1, auto_insert_metric_name=False
        )
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=world_size,
            strategy="ddp" if world_size > 1 else "auto",
            max_epochs=EPOCHS,
            max_steps=steps,
            limit_val_batches=1,
            callbacks=[ExactResume(), saver],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        resumed = f"{folder}/part/{stop}.ckpt" if checkpoint else None
        trainer.fit(net, data, ckpt_path=resumed, weights_only=True if resumed else None)
        torch.save((net.seen, net.state_dict()), f"{folder}/{run}-{rank}.pt")
    if world_size > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_resumed_within_an_epoch_is_bit_identical_and_ranks_share_what_one_sees(
    shards: Path, tmp_path: Path, world_size: int
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (world_size, str(tmp_path), port, str(shards))
    torch.multiprocessing.start_processes(rank_runs, arguments, nprocs=world_size, start_method="forkserver")
    seen, states = [], []
    for rank in range(world_size):
        whole, state = torch.load(tmp_path / f"whole-{rank}.pt")
        first, _ = torch.load(tmp_path / f"part-{rank}.pt")
        rest, resumed = torch.load(tmp_path / f"rest-{rank}.pt")
        assert len(whole) == EPOCHS * STEPS
        assert first + rest == whole
        assert all(torch.equal(state[key], resumed[key]) for key in state)
        seen.append(whole)
        states.append(state)
    # Parameters are one network's; batch-norm statistics are each rank's own.
    trained = [name for name in states[0] if "running" not in name]
    assert all(torch.equal(states[0][name], states[-1][name]) for name in trained)
    # By hand and alone: the same global batches, augmented alike, each image once.
    data = data_of(str(shards))
    loader = data.train_dataloader()
    alone = [images.long().sum().item() for _ in range(EPOCHS) for images, _ in loader]
    assert [sum(sums) for sums in zip(*seen, strict=True)] == alone
    order = data._order(0).tolist()
    assert sorted(order) == list(range(102))


def test_a_run_is_not_resumed_on_images_that_lie_otherwise_in_shards(shards: Path, tmp_path: Path) -> None:
    """Another window, or other chunks, is another order."""
    keys = [data_of(str(shards)).order_key]
    source = Streaming(path=str(shards))
    images = {split: source.dataset(split) for split in SPLITS}
    ChunkWriter(chunk_size=0.01).write(images, classes=source.classes, output=tmp_path / "other")  # type: ignore[arg-type]
    keys.append(data_of(str(tmp_path / "other")).order_key)
    wider = ImageDataModule(source=source, image_size=16, batch_size=BATCH, seed=3)
    keys.append(wider.order_key)
    changed = [{key for key in keys[0] if keys[0][key] != other[key]} for other in keys[1:]]
    assert changed == [{"chunks", "checksum of the training images' names and labels"}, {"window"}]


@pytest.mark.slow
def test_pack_then_train_and_evaluate_as_typed(shards: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli(*FROSTLINE, "pack", "data=image_folder", "data.path=photos", "output=again", "chunk_size=0.003")
    assert done.returncode == 0, done.stderr
    assert "train: 102 images" in done.stdout
    assert f"train on it with data=streaming data.path={tmp_path}/again" in done.stdout
    source = ("data=streaming", "data.path=again", "data.batch_size=8")
    done = cli(*FROSTLINE, "train", *SHORT, *source, "data.workers=2", env={"RUN_ID": "run"})
    assert done.returncode == 0, done.stderr
    results = facts(tmp_path / "runs/run")["results"]
    done = cli(*FROSTLINE, "evaluate", "checkpoint=runs/run/checkpoints/best.ckpt", "output=results.json")
    assert done.returncode == 0, done.stderr
    assert results
    assert "test accuracy" in done.stdout


@pytest.mark.slow
def test_two_ranks_train_from_a_store_what_they_train_from_the_folder(
    shards: Path,
    cli: Cli,
    tmp_path: Path,
    store: str,  # noqa: F811
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        address = upload(shards, store)
    words = (*FROSTLINE, "train", *SHORT, "data=streaming", "data.batch_size=8", "device=cpu_ddp", "test=false")
    there = (f"data.path={address}", f"data.endpoint_url={store}", "data.cache_dir=cache")
    for run, place in (("store", there), ("folder", ("data.path=shards",))):
        done = cli(*words, *place, env={**keys, "RUN_ID": run})
        assert done.returncode == 0, done.stdout + done.stderr
    one, other = (
        torch.load(tmp_path / f"runs/{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("store", "folder")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert list((tmp_path / "cache").glob("*-train-*.bin"))


def test_mistakes_are_reported_before_anything_is_read_and_without_a_traceback(shards: Path, cli: Cli) -> None:
    for words, message in (
        (["pack", "data=image_folder", "data.path=photos", "output=shards"], "/shards` is there already"),
        (["train", "data=streaming", "data.path=photos"], "data.path: no shards in /"),
        (["train", "data=streaming", "data.path=gs://a/b"], "must be a folder or s3://BUCKET/FOLDER, not gs://a/b"),
    ):
        done = cli(*FROSTLINE, *words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_an_unreachable_store_is_one_sentence(cli: Cli) -> None:
    words = ("data=streaming", "data.path=s3://bucket/sets", "data.endpoint_url=http://127.0.0.1:9", "data.timeout=0.5")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    done = cli(*FROSTLINE, "train", *words, "model.weights=none", env=keys)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "frostline: data.path=s3://bucket/sets: the store at http://127.0.0.1:9 does not give" in done.stderr
    assert "Traceback" not in done.stderr
