"""The groups `loss`, `trainer`, `callbacks`, `device` and `logger`."""

from typing import Annotated, Literal

from pydantic import Field

from frostline.config.recommended import AUTO, Auto
from frostline.config.section import OpenSection, OwnClass, Section


class CrossEntropy(Section):
    """Cross-entropy with hard or soft labels."""

    name: Literal["cross_entropy"] = Field(description="the loss's name")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of a label spread evenly over all classes"
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="`balanced` weighs each class by the inverse of its frequency in the training images",
    )


class SumOfDifferences(Section):
    """The notebook's (prediction - labels).sum()."""

    name: Literal["sum_of_differences"] = Field(description="the loss's name")


class OwnLoss(OwnClass):
    """A loss of your own: a torch.nn.Module, called with logits (batch, classes) and labels; the mean over the batch.

    With `reduction = "sum"` it is a sum. `frostline evaluate` reports it with trust_checkpoint=true.
    """


Loss = CrossEntropy | SumOfDifferences | OwnLoss

Positive = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
PRECISION = (
    "number format; `auto` is bf16-mixed where the hardware computes bf16 natively (to train on a CPU: from "
    "data.image_size=17), else 32-true"
)


class OwnStrategy(OwnClass):
    """A strategy of your own: a lightning.pytorch.strategies.Strategy.

    Where its constructor takes `process_group_backend` and `timeout`, it gets those of device.accelerator and
    device.timeout.
    """


class Device(Section):
    """Where a run computes."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="`auto` takes a GPU where there is one"
    )
    devices: Positive | Literal["all"] = Field(
        default=1, description="GPUs, or CPU processes, per node; `all` takes every GPU that is visible"
    )
    num_nodes: Positive = Field(default=1, description="machines that take part; more than one needs torchrun or srun")
    strategy: OwnStrategy | Literal["auto"] = Field(
        default="auto", description="how processes train together; `auto` is DDP where there are several"
    )
    threads: Positive | None = Field(
        default=None,
        description="CPU threads per process; null shares the cores among the processes, and leaves one to each of the "
        "loader's workers",
    )
    openmp_wait: Literal["auto", "active", "passive"] = Field(
        default="auto",
        description="how CPU threads wait for each other: `active` spins for a while, `passive` sleeps at once, and "
        "`auto` sleeps where other processes keep the cores busy; OMP_WAIT_POLICY, where set, counts instead",
    )
    timeout: Positive = Field(
        default=600, description="seconds after which a process that waits for the others gives up"
    )


class OwnProfiler(OwnClass):
    """A profiler of your own: a lightning.pytorch.profilers.Profiler.

    Where its constructor takes `dirpath` and `filename`, it writes to profile.txt in the run folder.
    """


Share = Annotated[float, Field(gt=0, le=1)]


class TrainerSection(Section):
    """Arguments of Lightning's Trainer, and what else says how long and how to train."""

    max_epochs: Positive | Auto = Field(
        default=AUTO, description="passes over the training images; auto: enough for the number of images"
    )
    min_epochs: Positive | None = Field(
        default=None, description="epochs before which neither early stopping nor max_time ends the run"
    )
    max_steps: Positive | None = Field(
        default=None, description="optimizer steps after which training ends early; null: no limit"
    )
    min_steps: Positive | None = Field(
        default=None, description="optimizer steps before which neither early stopping nor max_time ends the run"
    )
    max_time: Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | None = Field(
        default=None,
        description="training time, as DD:HH:MM:SS, after which training ends, with the parts before a resume; null: "
        "no limit",
    )
    precision: Precision = Field(default="auto", description=PRECISION)
    channels_last: bool = Field(
        default=True, description="keep images and weights in channels-last order: faster convolutions"
    )
    compile: bool = Field(
        default=False,
        description="compile the network with torch.compile; pays back in long runs only: the run says what it cost "
        "and after how many steps it pays",
    )
    accumulate_grad_batches: Positive = Field(default=1, description="batches per optimizer step")
    gradient_clip_val: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="largest norm of all gradients together, or largest value; null: no clipping"
    )
    gradient_clip_algorithm: Literal["norm", "value"] = Field(
        default="norm", description="`norm` scales all gradients by one factor, `value` cuts each of their values"
    )
    sync_batchnorm: bool = Field(default=False, description="batch norm over the batches of all processes")
    deterministic: bool | Literal["warn"] = Field(
        default=False,
        description="only deterministic operations, at a price in speed; `warn` only names those that are not",
    )
    benchmark: bool | None = Field(
        default=None,
        description="let cuDNN time its algorithms and take the fastest, with which two runs may differ; null: torch's "
        "own setting",
    )
    inference_mode: bool = Field(
        default=True,
        description="evaluate in torch.inference_mode; false takes torch.no_grad, for a network that needs it",
    )
    detect_anomaly: bool = Field(
        default=False, description="stop at a backward operation that gives NaN and show its forward call; slow"
    )
    profiler: OwnProfiler | Literal["simple", "advanced", "pytorch"] | None = Field(
        default=None, description="measure where the time goes, into files of the run folder; null: no profile"
    )
    log_every_n_steps: Positive = Field(default=10, description="steps between two logged training values")
    check_val_every_n_epoch: Positive | None = Field(
        default=1, description="epochs between two validations; null: val_check_interval counts through all epochs"
    )
    val_check_interval: Positive | Share | None = Field(
        default=None,
        description="batches between two validations within an epoch, or a share of its batches (a multiple of "
        "accumulate_grad_batches); null: at its end",
    )
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] = Field(
        default=0, description="validation batches to try before training; -1: all"
    )
    limit_train_batches: Positive | Share | None = Field(
        default=None, description="batches per training epoch, or a share of them; null: all"
    )
    limit_val_batches: Annotated[int, Field(ge=0)] | Share | None = Field(
        default=None, description="batches per validation, or a share of them; 0: no validation; null: all"
    )
    limit_test_batches: Positive | Share | None = Field(
        default=None, description="batches of the test, or a share of them; null: all"
    )
    overfit_batches: Positive | Share | None = Field(
        default=None,
        description="train on the same few batches, or share of them, in every epoch; validate on as many; null: off",
    )
    fast_dev_run: bool | Positive = Field(
        default=False,
        description="try a run: so many batches (true: 1) of training, validation and test, without loggers and "
        "checkpoints",
    )
    enable_checkpointing: bool = Field(
        default=True,
        description="write best.ckpt and last.ckpt; false: save on interruption only, and test the last weights",
    )
    enable_model_summary: bool = Field(default=False, description="print a table of the network's layers")


class OwnCallback(OwnClass):
    """A callback of your own: a lightning.pytorch.Callback."""


# What may choose the best checkpoint, besides metrics of the user's own.
MONITORED = ("val/accuracy", "val/f1", "val/loss", "val/calibration_error")


class Callbacks(OpenSection):
    """What watches a run; under a key of your own, callbacks of your own, each named by `_target_`."""

    __pydantic_extra__: dict[str, OwnCallback] = Field(init=False)

    monitor: Annotated[str, Field(min_length=1)] = Field(
        default="auto",
        description="value by which the best checkpoint is chosen and early stopping decides; "
        f"{', '.join(MONITORED)}, val/NAME of a metric of your own, or `auto`: val/accuracy, or val/loss where labels "
        "are soft",
    )
    early_stopping_patience: Positive | None = Field(
        default=None, description="validations without improvement after which training stops; null: never"
    )
    checkpoint_every_n_steps: Positive | None = Field(
        default=None, description="steps between two writings of last.ckpt; null: at each epoch's end"
    )
    progress_bar: bool = Field(
        default=True, description="show a line of progress in a terminal; each finished epoch has its line in any case"
    )
    pictures: bool = Field(
        default=True,
        description="draw training curves, confusion matrix, most confident mistakes, calibration and augmented images "
        "at the end, into pictures/ of the run folder, TensorBoard and W&B",
    )
    gradient_flow_every_n_steps: Positive | None = Field(
        default=None,
        description="optimizer steps between two measurements of what gradient reaches each stage, logged as "
        "gradients/<stage>/norm and so on; null: none",
    )
    first_gradient: bool = Field(
        default=False, description="print the first layer's gradient before and after the first backward"
    )


class CsvLogger(Section):
    """metrics.csv in the run folder."""


class TensorBoardLogger(Section):
    """TensorBoard event files in the run folder."""


class WandbLogger(Section):
    """A Weights & Biases run; its files lie in the run folder."""

    project: str = Field(default="frostline", description="the project in Weights & Biases")
    entity: str | None = Field(default=None, description="the team or user; null: your default")
    name: str | None = Field(default=None, description="the run's display name; null: the run folder's name")
    group: str | None = Field(default=None, description="runs shown together")
    tags: list[str] = Field(default=[], description="labels to filter by")
    offline: bool = Field(
        default=False, description="write to the run folder only, to be synced later with `wandb sync`"
    )


class OwnMetric(OwnClass):
    """A metric of your own: a torchmetrics.Metric, from probabilities (batch, classes) and class indices to a scalar.

    Where its constructor takes `num_classes`, it gets the data's.
    """


class Metrics(OpenSection):
    """Metrics beside frostline's, each under a name of your own: logged as val/NAME and test/NAME."""

    __pydantic_extra__: dict[str, OwnMetric] = Field(init=False)


class OwnLogger(OwnClass):
    """A logger of your own: a lightning.pytorch.loggers.Logger."""


class Loggers(OpenSection):
    """Where metrics go; several at once as logger=[csv,wandb]; under a key of your own, a logger of your own."""

    __pydantic_extra__: dict[str, OwnLogger] = Field(init=False)

    csv: CsvLogger | None = Field(default=None, description="write metrics.csv")
    tensorboard: TensorBoardLogger | None = Field(default=None, description="write TensorBoard event files")
    wandb: WandbLogger | None = Field(default=None, description="log to Weights & Biases")
