"""The groups `loss`, `trainer`, `callbacks`, `device` and `logger`."""

from typing import Annotated, Literal

from pydantic import Field

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

    With `reduction = "sum"` it is a sum. It is not in the checkpoint: an evaluation reports the cross-entropy.
    """


Loss = CrossEntropy | SumOfDifferences | OwnLoss

Positive = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
PRECISION = (
    "number format; `auto` is bf16-mixed where the hardware computes bf16 natively (to train on a CPU: from "
    "data.image_size=17), else 32-true"
)


class Device(Section):
    """Where a run computes."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="`auto` takes a GPU where there is one"
    )
    devices: Positive | Literal["all"] = Field(
        default=1, description="GPUs, or CPU processes, per node; `all` takes every GPU that is visible"
    )
    num_nodes: Positive = Field(default=1, description="machines that take part; more than one needs torchrun or srun")
    threads: Positive | None = Field(
        default=None,
        description="CPU threads per process; null shares the cores among the processes, and leaves one to each of the "
        "loader's workers",
    )
    timeout: Positive = Field(
        default=600, description="seconds after which a process that waits for the others gives up"
    )


class TrainerSection(Section):
    """How long and how to train."""

    max_epochs: Positive = Field(default=4, description="passes over the training images")
    max_steps: Positive | None = Field(
        default=None, description="optimizer steps after which training ends early; null: no limit"
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
        default=None, description="largest norm of all gradients together; null: no clipping"
    )
    sync_batchnorm: bool = Field(default=False, description="batch norm over the batches of all processes")
    deterministic: bool = Field(default=False, description="only deterministic operations, at a price in speed")
    log_every_n_steps: Positive = Field(default=10, description="steps between two logged training values")
    check_val_every_n_epoch: Positive = Field(default=1, description="epochs between two validations")
    limit_train_batches: Positive | None = Field(default=None, description="batches per training epoch; null: all")
    limit_val_batches: Positive | None = Field(default=None, description="batches per validation; null: all")
    limit_test_batches: Positive | None = Field(default=None, description="batches of the test; null: all")


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
        default=True, description="show a progress bar; where no terminal is, print a line an epoch"
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
