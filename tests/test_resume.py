"""A resumed run is the uninterrupted run, bit for bit."""

import os
import random
import socket
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import nn
from torchmetrics import CatMetric, MeanMetric

from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation
from frostline.resume import ChangedOptimizer, ExactResume
from frostline.resume.state import (
    metric_states,
    random_state,
    restore_metric_states,
    restore_random_state,
    summed_metric_states,
)
from tests.quiet import quiet_trainer

pytestmark = [
    # Lightning sees the folder of the run that is being resumed.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

BATCHES = 5  # 21 images, batches of 4: one image is dropped
EPOCHS = 3


class Net(lightning.LightningModule):
    """Batch norm, dropout and momentum: each shows a random state, a sample or a step that differs."""

    def __init__(self, plateau: bool = False) -> None:
        super().__init__()
        self.plateau = plateau
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(3)
        )
        self.net(torch.zeros(2, 3, 16, 16))
        self.seen: list[float] = []
        self.draws: list[float] = []
        self.validations: list[int] = []
        self.logged_at: list[int] = []
        self.loss = MeanMetric()
        self.epoch_losses: dict[int, float] = {}

    def training_step(self, batch, batch_idx):
        images, targets = batch
        self.seen.append(images.long().sum().item())
        images = images.float() / 255
        self.draws.append(random.random() + np.random.random())
        self.logged_at.append(self.trainer.fit_loop.epoch_loop._batches_that_stepped)
        loss = nn.functional.cross_entropy(self.net(images), targets)
        self.loss.update(loss.detach(), len(targets))
        return loss

    def on_train_epoch_end(self):
        self.epoch_losses[self.current_epoch] = self.loss.compute().item()
        self.log("epoch_loss", self.loss)

    def validation_step(self, batch, batch_idx):
        torch.rand(1)  # must not matter to training
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0].float() / 255), batch[1]))

    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            self.validations.append(self.trainer.global_step)

    def configure_optimizers(self):
        # As every schedule over the run does. Lightning makes the loader's iterator here, before it restores the step.
        assert self.trainer.estimated_stepping_batches
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        if self.plateau:
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
            return [optimizer], [{"scheduler": scheduler, "monitor": "val_loss"}]
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Interrupted(Exception):
    pass


class InterruptAfter(Callback):
    """Dies after `steps` steps, before the next one or before the validation that follows."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_validation_start(self, trainer, pl_module):
        if trainer.global_step >= self.steps:
            raise Interrupted

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step >= self.steps:
            # Drawn in a step that will not end: a checkpoint written now must not know of it.
            torch.rand(1), random.random(), np.random.random()
            raise Interrupted


def fit(
    folder: Path,
    *,
    stop_after: int | None = None,
    ckpt: Path | None = None,
    workers: int = 0,
    accumulate: int = 1,
    plateau: bool = False,
    checkpoint: ModelCheckpoint | None = None,
    batch_size: int = 4,
    seed: int = 3,
    val_length: int = 5,
    stopping: int | None = None,
    **trainer_options,
):
    """One process's share of a run; the caller's random state differs every time, as a new process's would."""
    torch.manual_seed(7 if ckpt is None else 1000 + (stop_after or 0))
    data = ImageDataModule(
        source=Synthetic(length=21, val_length=val_length, classes=3, image_size=16, seed=1),
        image_size=16,
        batch_size=batch_size,
        augment=Augmentation(name="standard", mixup=0.2),
        loading=Loading(workers=workers),
        seed=seed,
    )
    net = Net(plateau)
    if ckpt is None:
        torch.manual_seed(11)
        random.seed(11)
        np.random.seed(11)
    saver = checkpoint or ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
    )
    options = {"max_epochs": EPOCHS, **trainer_options}
    callbacks = [ExactResume(), saver]
    if stop_after is not None:
        callbacks.append(InterruptAfter(stop_after))
    if stopping is not None:
        callbacks.append(EarlyStopping("val_loss", patience=stopping))
    trainer = quiet_trainer(
        devices=1,
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        use_distributed_sampler=False,
        **options,
        enable_checkpointing=True,
    )
    try:
        trainer.fit(net, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
    except Interrupted:
        assert stop_after is not None
    return net, trainer


UNINTERRUPTED: dict = {}


def whole_run(**options):
    """An uninterrupted run with these options; the same one for every test that compares with it."""
    key = tuple(sorted(options.items()))
    if key not in UNINTERRUPTED:
        with tempfile.TemporaryDirectory() as folder:
            UNINTERRUPTED[key] = fit(Path(folder), **options)
    return UNINTERRUPTED[key]


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def assert_chain_is_exact(tmp_path: Path, stops: list[int], **options) -> None:
    whole, trainer = whole_run(**options)
    seen, draws, validations, losses, ckpt = [], [], [], {}, None
    for stop in [*stops, None]:
        folder = tmp_path / "parts"
        part, resumed = fit(folder, stop_after=stop, ckpt=ckpt, **options)
        seen, draws, validations = seen + part.seen, draws + part.draws, validations + part.validations
        # The end of an epoch runs twice where the interruption came after it and the checkpoint is from before.
        assert all(part.epoch_losses[epoch] == losses.get(epoch, loss) for epoch, loss in part.epoch_losses.items())
        losses |= part.epoch_losses
        ckpt = folder / f"{stop}.ckpt"
    assert losses == whole.epoch_losses
    assert resumed.global_step == trainer.global_step
    assert resumed.current_epoch == trainer.current_epoch
    assert seen == whole.seen
    assert draws == whole.draws
    assert validations == whole.validations
    assert same(whole, part)
    assert resumed.optimizers[0].param_groups[0]["lr"] == trainer.optimizers[0].param_groups[0]["lr"]
    assert resumed.fit_loop.epoch_loop._batches_that_stepped == trainer.fit_loop.epoch_loop._batches_that_stepped


@pytest.mark.parametrize("stops", [[1], [7], [5], [10], [3, 8], [5, 10], [4, 5, 11], [1, 2, 3]])
def test_chains_of_resumes_are_bit_identical(tmp_path, stops):
    assert_chain_is_exact(tmp_path, stops)


@pytest.mark.parametrize("stops", [[7], [5, 10], [2, 9, 13]])
def test_two_workers_are_exact_too(tmp_path, stops):
    assert_chain_is_exact(tmp_path, stops, workers=2)


def test_the_number_of_workers_does_not_matter():
    assert same(whole_run()[0], whole_run(workers=2)[0])


@pytest.mark.parametrize("stops", [[1], [3], [4, 6], [3, 5, 7]])
def test_accumulation_that_does_not_divide_the_epoch(tmp_path, stops):
    """5 batches, 2 to a step: 3 steps an epoch, the last of one batch."""
    assert_chain_is_exact(tmp_path, stops, accumulate=2)
    _, trainer = whole_run(accumulate=2)
    assert trainer.global_step == 9


def test_no_checkpoint_is_written_inside_an_accumulation_window(tmp_path):
    """Nor right after a resume, when `ModelCheckpoint` does not know which step it has saved."""
    fit(tmp_path, stop_after=4, accumulate=2)
    (tmp_path / "4.ckpt").rename(tmp_path / "moved.ckpt")
    fit(tmp_path, stop_after=5, ckpt=tmp_path / "moved.ckpt", accumulate=2)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["1", "2", "3", "5", "moved"]


@pytest.mark.parametrize("stops", [[2], [3], [4], [5], [2, 4, 7]])
def test_validation_within_the_epoch(tmp_path, stops):
    """Validation after batches 2 and 4 of each epoch; a checkpoint just before it resumes with it."""
    assert_chain_is_exact(tmp_path, stops, val_check_interval=2)


@pytest.mark.parametrize("stops", [[2], [4], [2, 4]])
def test_fewer_batches_than_the_epoch_has(tmp_path, stops):
    assert_chain_is_exact(tmp_path, stops, limit_train_batches=2)
    assert fit(tmp_path / "count", limit_train_batches=0.5)[1].global_step == 2 * EPOCHS


@pytest.mark.parametrize("stops", [[5], [7], [5, 10]])
def test_a_limit_in_steps(tmp_path, stops):
    assert_chain_is_exact(tmp_path, stops, max_steps=12, max_epochs=-1)


# Lightning says so of every run without validation images.
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
@pytest.mark.parametrize("way", [{"limit_val_batches": 0}, {"val_length": 0}])
def test_no_validation(tmp_path, way):
    assert_chain_is_exact(tmp_path, [5, 7], **way)


def test_validation_every_second_epoch(tmp_path):
    assert_chain_is_exact(tmp_path, [5, 10], check_val_every_n_epoch=2)


def saver_at(moment, folder):
    return ModelCheckpoint(
        folder,
        filename="{step}",
        auto_insert_metric_name=False,
        save_top_k=-1,
        every_n_epochs=1,
        save_on_train_epoch_end=moment == "epoch_end",
    )


@pytest.mark.parametrize("moment", ["validation", "epoch_end"])
def test_a_checkpoint_after_validation_or_at_the_epochs_end_does_not_validate_again(tmp_path, moment):
    """ReduceLROnPlateau shows whether the metric of the finished validation is used exactly once."""
    whole, trainer = fit(tmp_path, plateau=True, checkpoint=saver_at(moment, tmp_path))
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.05
    for stop in (5, 10):
        saver = saver_at(moment, tmp_path)
        part, resumed = fit(tmp_path, plateau=True, ckpt=tmp_path / f"{stop}.ckpt", checkpoint=saver)
        assert part.seen == whole.seen[stop:]
        assert part.validations == [step for step in (10, 15) if step > stop]
        assert resumed.optimizers[0].param_groups[0]["lr"] == trainer.optimizers[0].param_groups[0]["lr"]
        assert same(part, whole)


@pytest.mark.parametrize(
    ("moment", "options"),
    [
        ("validation", {"val_check_interval": 2}),
        ("validation", {"val_check_interval": 2, "max_steps": 13, "max_epochs": -1}),
        ("epoch_end", {"max_steps": 13, "max_epochs": -1}),
    ],
)
def test_the_logged_step_is_right_after_a_validation_is_skipped(tmp_path, moment, options):
    whole, trainer = fit(tmp_path, checkpoint=saver_at(moment, tmp_path), **options)
    for path in sorted(tmp_path.glob("*.ckpt")):
        stop = int(path.stem)
        if stop == trainer.global_step:
            continue
        part, _ = fit(tmp_path, ckpt=path, checkpoint=saver_at(moment, tmp_path), **options)
        assert part.logged_at == whole.logged_at[stop:]
        assert part.seen == whole.seen[stop:]
        assert part.validations == [step for step in whole.validations if step > stop]
        assert same(part, whole)


def test_plateau_scheduler_takes_its_step_in_the_epoch_that_was_resumed(tmp_path):
    assert_chain_is_exact(tmp_path, [3, 5, 12], plateau=True)


@pytest.mark.parametrize(("stop", "accumulate"), [(3, 1), (5, 1), (4, 2)])
def test_a_checkpoint_written_on_an_exception(tmp_path, stop, accumulate):
    def saver():
        return ModelCheckpoint(tmp_path, filename="crash", save_on_exception=True, every_n_epochs=10)

    whole, _ = whole_run(accumulate=accumulate)
    part, _ = fit(tmp_path, stop_after=stop, accumulate=accumulate, checkpoint=saver())
    rest, _ = fit(tmp_path, ckpt=tmp_path / "crash.ckpt", accumulate=accumulate, checkpoint=saver())
    assert part.seen + rest.seen == whole.seen
    assert part.draws + rest.draws == whole.draws
    assert same(whole, rest)


@pytest.mark.parametrize(("stop", "patience", "ends"), [(8, 2, 20), (15, 2, 20), (20, 2, 20), (20, 3, 25)])
def test_early_stopping_counts_on_after_a_resume(tmp_path, monkeypatch, stop, patience, ends):
    """The value is best in the second epoch; what had stopped stays stopped, unless it is given more patience."""
    monkeypatch.setattr(Net, "validation_step", lambda self, *_: self.log("val_loss", abs(self.current_epoch - 1.0)))
    options = {"max_epochs": 9, "num_sanity_val_steps": 0}
    assert fit(tmp_path, stopping=2, **options)[1].global_step == 20
    _, rest = fit(tmp_path, ckpt=tmp_path / f"{stop}.ckpt", stopping=patience, **options)
    assert rest.global_step == ends


def test_a_finished_run_resumed_does_nothing(tmp_path):
    whole, _ = fit(tmp_path)
    again, resumed = fit(tmp_path, ckpt=tmp_path / "15.ckpt", max_epochs=EPOCHS)
    assert again.seen == []
    assert resumed.global_step == 15
    assert same(whole, again)


def test_a_finished_run_goes_on_for_more_epochs(tmp_path):
    longer, _ = fit(tmp_path / "whole", max_epochs=4)
    fit(tmp_path / "parts")
    more, _ = fit(tmp_path / "parts", ckpt=tmp_path / "parts/15.ckpt", max_epochs=4)
    assert same(longer, more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed 3 -> 4"),
        ({"batch_size": 5}, "batch_size 4 -> 5"),
        ({"accumulate": 2}, "accumulate_grad_batches 1 -> 2"),
        ({"limit_train_batches": 3}, "batches per epoch 5 -> 3"),
    ],
)
def test_another_order_of_samples_is_refused(tmp_path, change, message):
    fit(tmp_path, stop_after=2)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, ckpt=tmp_path / "2.ckpt", **change)


def test_a_checkpoint_without_random_state_is_loud(tmp_path):
    fit(tmp_path, stop_after=2)
    checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=True)
    del checkpoint["frostline_resume"]
    torch.save(checkpoint, tmp_path / "bare.ckpt")
    with pytest.warns(UserWarning, match="without ExactResume"):
        _, resumed = fit(tmp_path, ckpt=tmp_path / "bare.ckpt")
    assert resumed.global_step == 15


def test_validation_draws_nothing_from_training():
    with_validation, _ = whole_run()
    without, _ = whole_run(limit_val_batches=0)
    assert with_validation.draws == without.draws
    assert same(with_validation, without)


def test_counters_that_do_not_fit_the_step_stop_the_run(tmp_path, monkeypatch):
    def skip_rest(self, batch, batch_idx):
        return -1 if self.current_epoch == 0 and batch_idx == 2 else None

    monkeypatch.setattr(Net, "on_train_batch_start", skip_rest)
    with pytest.raises(ValueError, match="2 optimizer steps mean batch 2 of epoch 0, but the trainer is at batch 0 of"):
        fit(tmp_path)


def test_metrics_go_on_from_their_state():
    module = nn.ModuleDict({"mean": MeanMetric(), "all": CatMetric(), "untouched": MeanMetric()})
    for value in (1.0, 2.0):
        module["mean"].update(value)
        module["all"].update(value)
    states = metric_states(module)
    assert sorted(states) == ["all", "mean"]
    module["mean"].update(10.0)
    other = nn.ModuleDict({"mean": MeanMetric(), "all": CatMetric(), "new": MeanMetric()})
    restore_metric_states(other, states)
    other["mean"].update(6.0)
    assert other["mean"].compute() == 3.0
    assert other["all"].compute().tolist() == [1.0, 2.0]
    # Two ranks' sums for one; lists have no sum.
    summed = summed_metric_states(other, [states, states])
    assert sorted(summed) == ["mean"]
    restore_metric_states(other, summed)
    other["mean"].update(0.0)
    assert other["mean"].compute() == pytest.approx(6.0 / 5)


def test_random_state_comes_back():
    state = random_state()
    drawn = torch.rand(3), np.random.random(), random.random(), np.random.standard_normal()
    restore_random_state(state)
    assert torch.equal(torch.rand(3), drawn[0])
    assert (np.random.random(), random.random(), np.random.standard_normal()) == drawn[1:]


def one_of_two_ranks(rank: int, folder: str, port: int) -> None:
    """A rank's three runs: one whole, one that stops after step 7, and the one that resumes it."""
    warnings.simplefilter("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    os.environ.pop("PL_GLOBAL_SEED", None)  # another test's, with which Lightning would seed both ranks alike
    for run, max_steps, ckpt in (("whole", 15, None), ("part", 7, None), ("rest", 15, f"{folder}/part/7.ckpt")):
        torch.manual_seed(11 if ckpt is None else 12)
        net = Net()
        if rank:
            # The ranks' random states differ; DDP makes the weights equal.
            torch.manual_seed(13)
        data = two_rank_data()
        saver = ModelCheckpoint(
            f"{folder}/{run}", filename="{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
        )
        trainer = quiet_trainer(
            devices=2,
            strategy="ddp",
            max_epochs=EPOCHS,
            max_steps=max_steps,
            callbacks=[ExactResume(), saver],
            use_distributed_sampler=False,
            enable_checkpointing=True,
        )
        trainer.fit(net, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
        torch.save((net.seen, net.state_dict()), f"{folder}/{run}-{rank}.pt")
    torch.distributed.destroy_process_group()


def two_rank_data() -> ImageDataModule:
    return ImageDataModule(
        source=Synthetic(length=21, val_length=5, classes=3, image_size=16, seed=1),
        image_size=16,
        batch_size=4,
        augment=Augmentation(name="light"),
        loading=Loading(workers=0),
    )


def test_two_ranks_resume_exactly_and_see_one_ranks_samples(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(one_of_two_ranks, (str(tmp_path), port), nprocs=2, start_method="forkserver")
    seen = {}
    for rank in (0, 1):
        seen[rank], state = torch.load(tmp_path / f"whole-{rank}.pt")
        first, _ = torch.load(tmp_path / f"part-{rank}.pt")
        rest, resumed = torch.load(tmp_path / f"rest-{rank}.pt")
        assert len(seen[rank]) == 15
        assert first + rest == seen[rank]
        assert all(torch.equal(state[key], resumed[key]) for key in state)
    assert seen[0] != seen[1]
    # By hand and alone: the same global batches, augmented alike.
    loader = two_rank_data().train_dataloader()
    alone = [images.long().sum().item() for _ in range(EPOCHS) for images, _ in loader]
    assert [sum(pair) for pair in zip(seen[0], seen[1], strict=True)] == alone
    kept = torch.load(tmp_path / "part/7.ckpt", weights_only=True)["frostline_resume"]["random_states"]
    assert len(kept) == 2
    assert not torch.equal(kept[0]["torch"], kept[1]["torch"])


def test_another_number_of_ranks_is_loud(tmp_path):
    fit(tmp_path, stop_after=2)
    checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=True)
    checkpoint["frostline_resume"]["random_states"] *= 2
    checkpoint["frostline_resume"]["world_size"] = 2
    torch.save(checkpoint, tmp_path / "two.ckpt")
    with pytest.warns(UserWarning, match="states of 2 of its 2 ranks, and there are 1 now"):
        part, _ = fit(tmp_path, ckpt=tmp_path / "two.ckpt")
    assert part.seen == whole_run()[0].seen[2:]


def test_it_needs_our_datamodule(tmp_path):
    trainer = quiet_trainer(
        max_steps=1,
        callbacks=[ExactResume(), ModelCheckpoint(tmp_path, every_n_train_steps=1)],
        enable_checkpointing=True,
    )
    loader = torch.utils.data.DataLoader([(torch.zeros(3, 16, 16, dtype=torch.uint8), 0)] * 4, batch_size=2)
    with pytest.raises(ValueError, match="needs an ImageDataModule"):
        trainer.fit(Net(), loader, loader)


def test_new_values_of_an_optimizer_hold_in_a_resumed_run_and_groups_without_decay_keep_none() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    scheduler.step()
    values = {"lr": (0.1, 0.01), "weight_decay": (0.5, 0.2), "betas": ([0.9, 0.999], [0.5, 0.9])}
    trainer: Any = SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)])
    ChangedOptimizer(values=values, fused=False).on_train_start(trainer, None)  # type: ignore[arg-type]
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.005]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 3)
