"""The groups `optimizer` and `scheduler`."""

from typing import Annotated, Literal

from pydantic import Field

from frostline.config.recommended import AUTO, Auto
from frostline.config.section import OwnClass, Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSection(Section):
    """What every optimizer has."""

    lr: float = Field(gt=0, description="learning rate; the freezing policy and the scheduler multiply it")
    exclude_from_decay: list[Literal["bias", "norm"]] = Field(
        default=[], description="what weight decay leaves out: `bias` (every bias), `norm` (normalisation layers)"
    )


class DecayingOptimizer(OptimizerSection):
    """An optimizer with weight decay."""

    weight_decay: float = Field(
        default=0.0, ge=0, description="L2 penalty, or decoupled decay where the optimizer decouples it"
    )


class SGD(DecayingOptimizer):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = Field(description="the optimizer's name")
    lr: Annotated[float, Field(gt=0)] | Auto = Field(  # type: ignore[assignment]
        default=AUTO,
        description="learning rate; the freezing policy and the scheduler multiply it; auto: by what is frozen",
    )
    momentum: float = Field(default=0.0, ge=0, description="share of the last update that is kept")
    dampening: float = Field(default=0.0, ge=0, description="share of the gradient that momentum leaves out")
    nesterov: bool = Field(
        default=False, description="look ahead by one momentum step; needs momentum > 0 and dampening 0"
    )


class AdamFamily(DecayingOptimizer):
    """What the Adam family shares."""

    betas: list[Beta] = Field(
        default=[0.9, 0.999],
        min_length=2,
        max_length=2,
        description="decay rates of the running mean of the gradient and of its square",
    )
    eps: float = Field(default=1e-8, ge=0, description="added to the denominator")


class AdamW(AdamFamily):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = Field(description="the optimizer's name")
    amsgrad: bool = Field(default=False, description="keep the largest of past second moments")


class Adam(AdamFamily):
    """Adam; its weight decay is an L2 penalty unless decoupled."""

    name: Literal["adam"] = Field(description="the optimizer's name")
    amsgrad: bool = Field(default=False, description="keep the largest of past second moments")
    decoupled_weight_decay: bool = Field(default=False, description="decay the weights directly, as AdamW does")


class NAdam(AdamFamily):
    """Adam with Nesterov momentum."""

    name: Literal["nadam"] = Field(description="the optimizer's name")
    momentum_decay: float = Field(default=0.004, ge=0, description="decay of the momentum schedule")
    decoupled_weight_decay: bool = Field(default=False, description="decay the weights directly, as AdamW does")


class RAdam(AdamFamily):
    """Adam with a rectified variance."""

    name: Literal["radam"] = Field(description="the optimizer's name")
    decoupled_weight_decay: bool = Field(default=False, description="decay the weights directly, as AdamW does")


class Adamax(AdamFamily):
    """Adam with the infinity norm."""

    name: Literal["adamax"] = Field(description="the optimizer's name")


class RMSprop(DecayingOptimizer):
    """Gradients divided by a running root mean square."""

    name: Literal["rmsprop"] = Field(description="the optimizer's name")
    momentum: float = Field(default=0.0, ge=0, description="share of the last update that is kept")
    alpha: float = Field(default=0.99, ge=0, lt=1, description="decay rate of the running mean square")
    eps: float = Field(default=1e-8, ge=0, description="added to the denominator")
    centered: bool = Field(default=False, description="normalise by the variance in place of the mean square")


class Adagrad(DecayingOptimizer):
    """Gradients divided by the root of their summed squares."""

    name: Literal["adagrad"] = Field(description="the optimizer's name")
    lr_decay: float = Field(default=0.0, ge=0, description="decay of the learning rate with the steps")
    eps: float = Field(default=1e-8, ge=0, description="added to the denominator")
    initial_accumulator_value: float = Field(default=0.0, ge=0, description="start of the sum of squares")


class Adadelta(DecayingOptimizer):
    """Adagrad over a window, with a scale of its own."""

    name: Literal["adadelta"] = Field(description="the optimizer's name")
    rho: float = Field(default=0.9, ge=0, le=1, description="decay rate of the running mean square")
    eps: float = Field(default=1e-8, ge=0, description="added to the denominator")


class Adafactor(DecayingOptimizer):
    """Adam with factored second moments."""

    name: Literal["adafactor"] = Field(description="the optimizer's name")
    beta2_decay: float = Field(default=-0.8, le=0, description="exponent of the second moment's decay schedule")
    eps: list[float | None] = Field(
        default=[None, 0.001],
        min_length=2,
        max_length=2,
        description="terms that regularise the squared gradient and the parameter's scale",
    )
    d: float = Field(default=1.0, ge=1, description="threshold for clipping the update")


class ASGD(DecayingOptimizer):
    """Averaged stochastic gradient descent."""

    name: Literal["asgd"] = Field(description="the optimizer's name")
    lambd: float = Field(default=0.0001, ge=0, description="decay term")
    alpha: float = Field(default=0.75, ge=0, description="power of the learning rate's update")
    t0: float = Field(default=1e6, ge=0, description="step at which averaging starts")


class Rprop(OptimizerSection):
    """Resilient backpropagation: only the gradients' signs; for full batches."""

    name: Literal["rprop"] = Field(description="the optimizer's name")
    etas: list[Annotated[float, Field(gt=0)]] = Field(
        default=[0.5, 1.2], min_length=2, max_length=2, description="factors by which a step shrinks and grows"
    )
    step_sizes: list[Annotated[float, Field(gt=0)]] = Field(
        default=[1e-6, 50.0], min_length=2, max_length=2, description="smallest and largest step"
    )


class OwnOptimizer(OptimizerSection, OwnClass):
    """An optimizer of your own: a torch.optim.Optimizer."""

    weight_decay: float | None = Field(default=None, ge=0, description="weight decay; null: the class's own default")


Optimizer = (
    SGD | AdamW | Adam | RMSprop | NAdam | RAdam | Adamax | Adagrad | Adadelta | Adafactor | ASGD | Rprop | OwnOptimizer
)


class SchedulerSection(Section):
    """What every scheduler has."""

    warmup: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the run's steps in which the learning rate rises to its full value",
    )


class Constant(SchedulerSection):
    """The full learning rate throughout."""

    name: Literal["constant"] = Field(description="the scheduler's name")


class Cosine(SchedulerSection):
    """A half cosine from the full learning rate down."""

    name: Literal["cosine"] = Field(description="the scheduler's name")
    min_factor: float = Field(default=0.0, ge=0, lt=1, description="the last learning rate as a factor of the full one")


class Step(SchedulerSection):
    """The learning rate falls by a factor every few epochs."""

    name: Literal["step"] = Field(description="the scheduler's name")
    step_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="epochs between two falls; null: a third of the run"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="factor of each fall")


class OneCycle(SchedulerSection):
    """Up to the full learning rate during the warm-up, then down to almost nothing (Smith and Topin, 2019)."""

    name: Literal["onecycle"] = Field(description="the scheduler's name")
    div_factor: float = Field(default=25.0, ge=1, description="the full learning rate over the first one")
    final_div_factor: float = Field(default=10000.0, ge=1, description="the first learning rate over the last one")
    anneal: Literal["cos", "linear"] = Field(default="cos", description="form of both ramps")


class OwnScheduler(OwnClass):
    """A schedule of your own: a torch.optim.lr_scheduler.LRScheduler, stepped after each optimizer step.

    Where its constructor takes `total_steps` or `steps_per_epoch`, it gets those of the run.
    """


Scheduler = Constant | Cosine | Step | OneCycle | OwnScheduler
