"""How fast a run trains, and how much of that time it waits for its data."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning
import torch

from frostline.data.cores import usable_cores

# The action that Lightning's profilers know the wait for the next training batch by.
FETCH = "[_TrainingEpochLoop].train_dataloader_next"
MUCH = 0.2  # share of the training time
SECONDS_WORTH_A_WORD = 5.0


class Epoch(NamedTuple):
    """One training epoch: images over all ranks, seconds without the validation in it, and seconds waiting for data.

    With several ranks, the seconds of the slowest and the wait of the one that waited longest: the others stand still
    with it.
    """

    images: int
    seconds: float
    waited: float


class Throughput(lightning.Callback):
    """Measures each epoch by the host's clock and logs `speed/images_per_second` and `speed/data_wait` at its end.

    `speed/data_wait` is the share, from 0 to 1, of the training time in which the loop stood and waited for its next
    batch: without workers all that decoding and transforming takes, with workers what they are too slow by. Validation
    is not counted. A batch is counted by the length of its last item, the targets. Nothing waits for the device; on a
    GPU, which may compute on while the host waits, the share is an upper bound. Several ranks meet once an epoch.

    Attributes:
        epochs: what was measured, of each epoch of this fit.
    """

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self._profiler: Any = None
        self._images = 0
        self._waited = self._asked = self._started = self._paused = self._validated = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit" or self._profiler is not None:
            return
        self.epochs = []
        # Whichever profiler the trainer has is told when a batch is asked for and when it is there: there, and nowhere
        # else, the wait can be told from the hooks around it.
        self._profiler = trainer.profiler  # type: ignore[attr-defined]
        start, stop = self._profiler.start, self._profiler.stop

        def started(action: str) -> None:
            if action == FETCH:
                self._asked = time.perf_counter()
            start(action)

        def stopped(action: str) -> None:
            stop(action)
            if action == FETCH:
                self._waited += time.perf_counter() - self._asked

        self._profiler.start, self._profiler.stop = started, stopped

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._profiler is not None:
            del self._profiler.start, self._profiler.stop  # the class's own stand behind them
            self._profiler = None

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A fit that is resumed within an epoch goes on without starting one.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = time.perf_counter()
        self._images, self._waited, self._validated = 0, 0.0, 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[-1])

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._validated += time.perf_counter() - self._paused

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        epoch = Epoch(self._images, time.perf_counter() - self._started - self._validated, self._waited)
        if trainer.world_size > 1:
            mine = torch.tensor([epoch.seconds, epoch.waited], device=trainer.strategy.root_device)
            seconds, waited = trainer.strategy.reduce(mine, reduce_op="max").tolist()
            epoch = Epoch(epoch.images * trainer.world_size, seconds, waited)
        self.epochs.append(epoch)
        # Equal on all ranks by now.
        pl_module.log_dict(
            {f"speed/{name}": value for name, value in summary([epoch]).items()}, prog_bar=True, rank_zero_only=True
        )

    def facts(self) -> dict[str, Any]:
        """The fit as a whole and epoch by epoch, as plain values; empty where no epoch was finished."""
        if not self.epochs:
            return {}
        seconds, waited = sum(epoch.seconds for epoch in self.epochs), sum(epoch.waited for epoch in self.epochs)
        whole = {"seconds": round(seconds, 3), "seconds_waited": round(waited, 3)}
        return {**summary(self.epochs), **whole, "epochs": [summary([epoch]) for epoch in self.epochs]}


def summary(epochs: list[Epoch]) -> dict[str, float]:
    """Images per second, and the share of the time that was spent waiting for data, over some epochs."""
    seconds = sum(epoch.seconds for epoch in epochs)
    return {
        "images_per_second": round(sum(epoch.images for epoch in epochs) / seconds, 2),
        "data_wait": round(sum(epoch.waited for epoch in epochs) / seconds, 4),
    }


def speed_text(facts: Mapping[str, Any], *, advice: str = "") -> str:
    """One line of `Throughput.facts`, and one of advice where there is any."""
    line = (
        f"speed: {facts['images_per_second']:,.0f} images/s in training, {100 * facts['data_wait']:.0f} % of the time "
        "waiting for data"
    )
    return f"{line}\n{advice}" if advice else line


def data_advice(facts: Mapping[str, Any], *, workers: int, cores: int, packable: bool) -> str:
    """What would shorten the wait for data on this machine; empty where little would be won.

    Args:
        workers: loader processes of a rank.
        cores: a rank's share of the machine's.
        packable: the images are decoded from files and are not kept decoded yet.
    """
    if facts["data_wait"] <= MUCH or facts["seconds_waited"] < SECONDS_WORTH_A_WORD:
        return ""
    ways = ["data.packed=FOLDER (keeps decoded images for later epochs and runs)"] if packable else []
    more = min(8, cores - 1)
    if cores > 2 and workers < more:
        ways.append(f"data.workers={more} (now {workers})")
    ways = ways or ["a smaller data.image_size", "a lighter augment", "a machine with more cores"]
    return f"Training waited for data for {facts['seconds_waited']:.0f} s. What would help: {', or '.join(ways)}."


def data_advice_for(trainer: lightning.Trainer, facts: Mapping[str, Any]) -> str:
    """`data_advice` for a trainer that has fitted from an `ImageDataModule`."""
    source = getattr(getattr(trainer, "datamodule", None), "source", None)
    return data_advice(
        facts,
        workers=int(getattr(trainer.train_dataloader, "num_workers", 0)),
        cores=usable_cores() // max(1, trainer.num_devices),
        packable=getattr(source, "cache", "not by files") is None,
    )
