"""Training speed, and the share of the time spent waiting for data."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.profilers import Profiler

from frostline.data.cores import usable_cores

# Lightning's profiler action for the wait for the next training batch.
FETCH = "[_TrainingEpochLoop].train_dataloader_next"
LONG_WAIT = 0.2  # share of the training time
LEAST_SECONDS = 5.0


class Epoch(NamedTuple):
    """One training epoch: images over all ranks, seconds without the validation in it, and seconds waiting for data.

    With several ranks: the seconds of the slowest rank and the longest wait of any, since the others wait for them.
    """

    images: int
    seconds: float
    waited: float


class FetchTimer(Profiler):
    """Adds up the seconds in which the training loop waits for its next batch; passes all else to another profiler.

    Lightning has no callback hook around the fetch, but it reports it to the trainer's profiler.
    """

    def __init__(self, profiler: Profiler) -> None:
        super().__init__()
        self.profiler = profiler
        self.seconds = self._asked = 0.0

    def start(self, action_name: str) -> None:
        self.profiler.start(action_name)
        if action_name == FETCH:
            self._asked = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name == FETCH:
            self.seconds += time.perf_counter() - self._asked
        self.profiler.stop(action_name)

    def summary(self) -> str:
        return self.profiler.summary()

    def describe(self) -> None:
        self.profiler.describe()


class Throughput(lightning.Callback):
    """Measures each epoch by the host's clock and logs `speed/images_per_second` and `speed/data_wait` at its end.

    `speed/data_wait` is the share, from 0 to 1, of the training time in which the loop waited for its next batch.
    Without workers that is all decoding and transforming; with workers, what they are too slow by. Validation is not
    counted. A batch is counted by the length of its last item, the targets. The device is never waited for: a GPU may
    compute while the host waits, so the share is an upper bound. Ranks synchronise once an epoch.

    Attributes:
        epochs: what was measured, of each epoch of this fit.
    """

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self._timer: FetchTimer | None = None
        self._images = 0
        self._started = self._paused = self._validated = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit" and self._timer is None:
            self.epochs = []
            trainer.profiler = self._timer = FetchTimer(trainer.profiler)  # type: ignore[attr-defined]

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._timer is not None:
            trainer.profiler, self._timer = self._timer.profiler, None  # type: ignore[attr-defined]

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A fit that is resumed within an epoch calls no on_train_epoch_start.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = time.perf_counter()
        self._images, self._validated = 0, 0.0
        if self._timer is not None:
            self._timer.seconds = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[-1])

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._validated += time.perf_counter() - self._paused

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        waited = 0.0 if self._timer is None else self._timer.seconds
        epoch = Epoch(self._images, time.perf_counter() - self._started - self._validated, waited)
        if trainer.world_size > 1:
            mine = torch.tensor([epoch.seconds, epoch.waited], device=trainer.strategy.root_device)
            seconds, waited = trainer.strategy.reduce(mine, reduce_op="max").tolist()
            epoch = Epoch(epoch.images * trainer.world_size, seconds, waited)
        self.epochs.append(epoch)
        # Equal on all ranks by now.
        pl_module.log_dict({f"speed/{name}": value for name, value in summary([epoch]).items()}, rank_zero_only=True)

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


def data_advice(facts: Mapping[str, Any], *, workers: int, cores: int, cacheable: bool) -> str:
    """Advice on how to shorten the wait for data on this machine; empty where little would be gained.

    Args:
        workers: loader processes of a rank.
        cores: a rank's share of the machine's.
        cacheable: the images are decoded from files and are not kept decoded yet.
    """
    if facts["data_wait"] <= LONG_WAIT or facts["seconds_waited"] < LEAST_SECONDS:
        return ""
    ways = ["data.decoded_cache=FOLDER (keeps decoded images for later epochs and runs)"] if cacheable else []
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
        cacheable=getattr(source, "cache", "not by files") is None,
    )
