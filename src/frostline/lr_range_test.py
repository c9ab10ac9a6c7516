"""A learning rate from a range test (Smith, 2017, arXiv 1506.01186): one short training whose rate rises in each step.

Lightning's Tuner.lr_find was tried first (Lightning 2.6.6). It replaces all callbacks by its own, so that
`FreezingSchedule` and `FastPath` do not run: no check of the frozen tensors, no features from the cache; it gives all
parameter groups one rate; and it writes a checkpoint into the working folder. This is an ordinary fit instead, with a
schedule that rises: the policy's factors multiply the rate in each step as in a training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from frostline.classifier import ImageClassifier
from frostline.figures import ICE_LINE, INK, PAPER, WARM_INK, WARM_LINE, save_figure, styled

SMOOTHING = 3.0  # standard deviation, in steps, of the Gaussian that smooths the losses
SETTLED = 10  # steps at the lowest rates, whose losses are those without training
DIVERGED = 2.0  # times the lowest loss so far and more than at the beginning, over 3 steps: the test ends


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """The learning rates of a range test, ascending, and the training loss of the step that was taken at each."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The losses averaged over their neighbours, without the heights of divergence, which would reach far back.

        An average of past losses, as fastai's and Lightning's, lags: its lowest point lies at two to three times the
        rate of this one's.
        """
        losses = np.array(self.losses)
        begun = losses[:SETTLED].max()
        losses = losses.clip(max=2 * begun - losses.min())
        places = np.arange(len(losses))
        weights = np.exp(-0.5 * ((places[:, None] - places) / SMOOTHING) ** 2)
        return tuple((weights @ losses / weights.sum(axis=1)).tolist())


@dataclass(frozen=True, kw_only=True)
class RateRange:
    """Rates from `lowest` to `highest`, each step's by the same factor above the one before it."""

    lowest: float
    highest: float
    steps: int

    def rate(self, step: int) -> float:
        """The rate of a step, from 0."""
        return self.lowest * float((self.highest / self.lowest) ** (step / (self.steps - 1)))

    def schedule(self, optimizer: Optimizer, steps: int, epoch: int) -> LRScheduler:
        """A `SchedulerBuilder` for an optimizer with a learning rate of 1."""
        return LambdaLR(optimizer, self.rate)


class RecordLosses(Callback):
    """Records the loss of each optimizer step, and ends the fit when the loss diverges."""

    def __init__(self, rates: RateRange) -> None:
        self._rates = rates
        self._losses: list[float] = []

    @property
    def result(self) -> RangeTest:
        """What was recorded so far."""
        rates = tuple(self._rates.rate(step) for step in range(len(self._losses)))
        return RangeTest(rates=rates, losses=tuple(self._losses))

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == len(self._losses):
            return  # gradients are accumulated
        self._losses.append(float(trainer.callback_metrics["train/loss"]))
        begun, lately = self._losses[:SETTLED], min(self._losses[-3:])
        if len(self._losses) > 2 * SETTLED and lately > max(DIVERGED * min(self._losses), *begun):
            trainer.should_stop = True


def range_test(
    classifier: ImageClassifier, data: lightning.LightningDataModule, rates: RateRange, **trainer: Any
) -> RangeTest:
    """Train a classifier for a number of optimizer steps, each at a higher rate, until the loss diverges.

    The classifier's weights are changed: build another one to train.

    Args:
        classifier: whose optimizer has a learning rate of 1, and whose schedule is `rates.schedule`.
        trainer: further arguments of Lightning's Trainer.

    Raises:
        FloatingPointError: the loss is not finite from the beginning.
    """
    record = RecordLosses(rates)
    fit = lightning.Trainer(
        max_steps=rates.steps,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # as in a run: the datamodule divides the images itself
        callbacks=[record],
        **trainer,
    )
    try:
        fit.fit(classifier, datamodule=data)
    except FloatingPointError:
        if len(record.result.losses) <= SETTLED:
            raise
    return record.result


def suggestion(found: RangeTest) -> float | None:
    """The rate at which the smoothed loss is lowest: the highest before it rises, which Smith (2018, arXiv 1803.09820)
    takes for the peak of a one-cycle schedule. None where the loss does not fall.

    fastai's `valley` and Lightning's steepest fall lie 5 to 50 times lower: in a run of 4 epochs a head trained at them
    was far from done (docs/learning-rate.md).
    """
    smoothed, begun = np.array(found.smoothed), np.array(found.losses[:SETTLED])
    lowest = int(smoothed.argmin())
    # Less is the noise between batches.
    fall = max(2 * begun.std(), 0.02 * abs(begun.mean()))
    return found.rates[lowest] if smoothed[lowest] < begun.mean() - fall else None


@styled
def draw_range_test(found: RangeTest, path: Path, *, title: str) -> Path:
    """The loss over the rate, each step and smoothed, with the suggestion."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    smoothed, rate = found.smoothed, suggestion(found)
    axes.plot(found.rates, found.losses, color=ICE_LINE, linewidth=1, label="loss of the step")
    axes.plot(found.rates, smoothed, color=INK, label="smoothed")
    axes.set_xscale("log")
    low, high = min(*smoothed, *found.losses), max(found.losses[:SETTLED])
    axes.set_ylim(low - 0.05 * (high - low), high + 0.3 * (high - low) or 1.0)
    if rate is not None:
        axes.axvline(rate, color=WARM_LINE)
        text = axes.annotate(
            f"suggested: {rate:.2g}", (rate, 0.97), xycoords=("data", "axes fraction"), ha="right", va="top",
            xytext=(-6, 0), textcoords="offset points", color=WARM_INK,
        )  # fmt: skip
        text.set_bbox({"facecolor": PAPER, "edgecolor": PAPER, "pad": 1.0})
    axes.set_xlabel("learning rate, higher in each step")
    axes.set_ylabel("training loss")
    axes.set_title(f"range test: {title}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", fontsize=9)
    return save_figure(figure, path, formats=(".svg", ".png", ".pdf"))
