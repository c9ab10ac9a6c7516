"""Two configs compared: the one in the checkpoint that a run goes on from, and the one that is typed now."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from frostline.config.commands import TrainConfig
from frostline.config.key_text import value_text
from frostline.config.secret_values import hidden

Treatment = Literal["free", "applied", "refused"]

# May change: where and how a run computes, what it shows and writes, where its files are.
FREE = [
    "fit",
    "test",
    "resume_from",
    "init_from",
    "on_policy_change",
    "output_dir",
    "device",
    "logger",
    "metrics",
    "model.weights",
    "data.path",
    "data.root",
    "data.decoded_cache",
    "data.decoded_cache_limit",
    "data.cache_dir",
    "data.cache_limit",
    "data.endpoint_url",
    "data.timeout",
    "data.download",
    "data.max_pixels",
    "data.workers",
    "data.loader_timeout",
    "cache.folder",
    "cache.limit_gb",
    "speed.allocator",
    "speed.frozen_prefix",
    "speed.feature_cache",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.log_every_n_steps",
    "trainer.limit_test_batches",
    "trainer.compile",
    "trainer.deterministic",
    "callbacks.progress_bar",
    "callbacks.checkpoint_every_n_steps",
    "callbacks.gradient_flow_every_n_steps",
    "callbacks.first_gradient",
]
# May change, and the run goes on differently from there: where typed, it is applied and reported.
OPTIMIZER_VALUES = [
    "lr",
    "weight_decay",
    "momentum",
    "dampening",
    "nesterov",
    "betas",
    "eps",
    "alpha",
    "rho",
    "lr_decay",
    "momentum_decay",
    "beta2_decay",
    "d",
    "lambd",
    "t0",
    "etas",
    "step_sizes",
]
APPLIED = [
    *(f"optimizer.{key}" for key in OPTIMIZER_VALUES),
    *[
        "scheduler",
        "augment",
        "speed.fused_optimizer",
        "trainer.precision",
        "trainer.gradient_clip_val",
        "trainer.channels_last",
    ],
    *["trainer.sync_batchnorm", "trainer.limit_val_batches", "trainer.check_val_every_n_epoch"],
]
# What the weights, the optimizer's state, the order of images or the best value so far belong to. FreezingSchedule
# compares the policy, by its content.
REFUSED = [
    "seed",
    "model.name",
    "model._target_",
    "head",
    "loss",
    "optimizer.name",
    "optimizer._target_",
    "optimizer.amsgrad",
    "optimizer.centered",
    "optimizer.decoupled_weight_decay",
    "optimizer.initial_accumulator_value",
    "optimizer.exclude_from_decay",
    "data.name",
    "data._target_",
    "data.image_size",
    "data.batch_size",
    "data.resize",
    "data.horizontal_flip",
    "data.sampling",
    "data.mean",
    "data.std",
    "data.val_fraction",
    "data.test_fraction",
    "data.split_seed",
    "data.length",
    "data.val_length",
    "data.test_length",
    "data.train_length",
    "data.classes",
    "data.difficulty",
    "data.seed",
    "data.dataset",
    "data.options",
    "data.window",
    "data.scaled_decoding",
    "data.on_bad_image",
    "data.rare_classes",
    "cache.views",
    "trainer.accumulate_grad_batches",
    "trainer.limit_train_batches",
    "callbacks.monitor",
    "callbacks.early_stopping_patience",
]
POLICY = ["freeze"]
IDENTITY = ("name", "_target_")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A key whose value is another than in the checkpoint."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {value_text(self.before)} in the checkpoint, {value_text(self.now)} now"


def treatment(key: str) -> Treatment | None:
    """What becomes of a change of `group.key` or of a key at the top; None for a key that no list has."""
    names = (key, key.partition(".")[0])
    listed: tuple[tuple[Treatment, Sequence[str]], ...] = (
        ("free", FREE),
        ("applied", APPLIED),
        ("refused", REFUSED),
        ("free", POLICY),
    )
    return next((kind for kind, keys in listed if any(name in keys for name in names)), None)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """What differs between two configs, but for what may freely; a key that an older frostline lacked does not."""
    for key, value in hidden(now).items():  # as a checkpoint holds it
        old = before.get(key)
        if not isinstance(value, Mapping) or not isinstance(old, Mapping):
            if key in before and old != value:
                yield Change(key=key, before=old, now=value)
            continue
        who = [name for name in IDENTITY if old.get(name) != value.get(name)]
        own = "_target_" in value  # a class of the user's own: each of its keys is part of what it is
        both = who or [name for name in {**old, **value} if own or (name in old and name in value)]
        for name in both:
            if _plain(old.get(name)) != _plain(value.get(name)):
                yield Change(key=f"{key}.{name}", before=old.get(name), now=value.get(name))


def applied(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The changes that a resumed run takes over."""
    return [change for change in changes(before, now) if treatment(change.key) == "applied"]


def problems(checkpoint: Mapping[str, Any], config: TrainConfig, *, typed: Collection[str]) -> list[str]:
    """Why a run cannot go on from a checkpoint under a config: one message a problem.

    Args:
        typed: the keys of the command line.
    """
    found, now = [], config.as_dict()
    for change in changes(checkpoint["frostline"]["settings"], now):
        kind = treatment(change.key)
        group = change.key.partition(".")[0]
        spoken = change.key in typed or group in typed or "experiment" in typed
        if kind == "free" or (kind == "applied" and spoken):
            continue
        back = f"type {change.key}={value_text(change.before)}"
        if change.key.endswith(".name"):
            back = f"type {group}={value_text(change.before)}"
        other = (
            f"or {change.key}={value_text(change.now)} to go on with that"
            if kind == "applied"
            else f"or start a new run from its weights: init_from={config.resume_from} in place of resume_from"
        )
        found.append(f"{change}. To go on as before, {back}; {other}.")
    return [*found, *_policy(checkpoint, config), *_lengths(checkpoint, config)]


def _policy(checkpoint: Mapping[str, Any], config: TrainConfig) -> Iterator[str]:
    """What to type where FreezingSchedule would refuse the policy in mid-work."""
    before, after = checkpoint["frostline"]["settings"].get("freeze"), config.freeze.as_dict()
    if config.on_policy_change != "refuse" or not isinstance(before, Mapping):
        return
    if config.freeze.policy().to_dict() == checkpoint["frostline"]["policy"]:
        return
    renamed = before.get("name") != after.get("name")
    words = [f"freeze={before.get('name')}"] if renamed else []
    for key in ("batch_norm", "dropout") if renamed else after:
        if key in before and _plain(before[key]) != _plain(after.get(key)):
            words.append(f"freeze.{key}={value_text(before[key])}")
    yield (
        f"freeze: another policy than in the checkpoint. To go on as before, type {' '.join(words)}; to begin this one "
        f"with its first phase, on_policy_change=restart; or start a new run: init_from={config.resume_from} in place "
        "of resume_from."
    )


def _lengths(checkpoint: Mapping[str, Any], config: TrainConfig) -> Iterator[str]:
    step, kept, trainer = checkpoint["global_step"], checkpoint.get("frostline_resume"), config.trainer
    if trainer.max_steps is not None and trainer.max_steps < step:
        yield (
            f"trainer.max_steps: {trainer.max_steps}, but {config.resume_from} is from step {step}. Type a larger "
            "number."
        )
    if kept is not None:
        epochs = step // -(-kept["batches_per_epoch"] // kept["accumulate_grad_batches"])
        if trainer.max_epochs < epochs:
            yield (
                f"trainer.max_epochs: {trainer.max_epochs}, but {config.resume_from} has done {epochs} epochs. Type a "
                "larger number."
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
