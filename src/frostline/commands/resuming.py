"""Two configs compared: the one in the checkpoint that a run goes on from, and the one that is typed now."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from frostline.checkpoint import CHECKPOINT_KEY, read_description
from frostline.config.commands import TrainConfig
from frostline.config.data import Source
from frostline.config.key_text import value_text
from frostline.config.secret_values import hidden

Treatment = Literal["free", "applied", "refused"]


def _keys(group: str, names: str) -> list[str]:
    """`optimizer.lr` and so on; of no group the keys and groups at the top."""
    return [f"{group}.{name}".lstrip(".") for name in names.split()]


# May change: where and how a run computes, what it shows and writes, where its files are. FreezingSchedule compares the
# policy, by its content.
FREE = (
    *_keys(
        "", "fit test resume_from init_from on_policy_change trust_checkpoint output_dir device logger metrics freeze"
    ),
    *_keys("model", "weights"),
    *_keys(
        "data",
        "path root decoded_cache decoded_cache_limit cache_dir cache_limit endpoint_url timeout download max_pixels "
        "workers loader_timeout",
    ),
    *_keys("cache", "folder limit_gb"),
    *_keys("speed", "allocator frozen_prefix feature_cache"),
    *_keys(
        "trainer",
        "max_epochs max_steps log_every_n_steps limit_test_batches compile deterministic min_epochs "
        "min_steps max_time profiler benchmark detect_anomaly inference_mode num_sanity_val_steps "
        "enable_model_summary enable_checkpointing fast_dev_run",
    ),
    *_keys("callbacks", "progress_bar pictures checkpoint_every_n_steps gradient_flow_every_n_steps first_gradient"),
)
# May change, and the run goes on differently from there: where typed, it is applied and reported.
APPLIED = (
    *_keys(
        "optimizer",
        "lr weight_decay momentum dampening nesterov betas eps alpha rho lr_decay momentum_decay "
        "beta2_decay d lambd t0 etas step_sizes",
    ),
    *_keys("", "scheduler augment"),
    *_keys("speed", "engine fused_optimizer"),
    *_keys(
        "trainer",
        "precision gradient_clip_val channels_last sync_batchnorm limit_val_batches "
        "check_val_every_n_epoch gradient_clip_algorithm val_check_interval",
    ),
)
# What the weights, the optimizer's state, the order of images or the best value so far belong to.
REFUSED = (
    *_keys("", "seed head loss averaging"),
    *_keys("model", "name _target_"),
    *_keys(
        "optimizer",
        "name _target_ amsgrad centered decoupled_weight_decay initial_accumulator_value exclude_from_decay",
    ),
    *_keys(
        "data",
        "name _target_ image_size batch_size resize interpolation horizontal_flip sampling mean std val_fraction "
        "test_fraction split_seed length val_length test_length train_length classes difficulty seed "
        "dataset options window scaled_decoding on_bad_image rare_classes",
    ),
    *_keys("cache", "views"),
    *_keys("trainer", "accumulate_grad_batches limit_train_batches overfit_batches"),
    *_keys("callbacks", "monitor early_stopping_patience"),
)
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
        if change.key in typed:
            back = f"leave {change.key} out"
        elif change.key.endswith(".name") and group in typed:
            back = f"leave {group} out"
        elif change.key.endswith(".name"):
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

    timer = checkpoint["callbacks"].get("TimeLimit")
    if trainer.max_time is not None and timer is not None:
        parts = zip(trainer.max_time.split(":"), (86400, 3600, 60, 1), strict=True)
        trained = round(timer["time_elapsed"]["train"])
        if trained >= sum(int(part) * seconds for part, seconds in parts):
            yield (
                f"trainer.max_time: {trainer.max_time}, but {config.resume_from} has trained for {trained} seconds. "
                "Type a longer time, or null."
            )


@contextmanager
def restored(trainer: Any, checkpoint: str | None) -> Iterator[None]:
    """Name the file where its state cannot be taken up.

    Raises:
        ValueError: what Lightning or a callback made of the state, until all of it was restored.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        if checkpoint is None or not trainer._checkpoint_connector._loaded_checkpoint:
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{checkpoint}: a run cannot go on from its state, which is damaged or of another version "
            f"({type(error).__name__}: {reason}). To start a new run from its weights: init_from={checkpoint}"
        ) from error


def with_interpolation(data: Source, checkpoint: str | None) -> Source:
    """The data with the interpolation of the checkpoint that a run goes on from; older ones have none, and bilinear."""
    if checkpoint is None or data.interpolation is not None:
        return data
    images = read_description(checkpoint, key="resume_from")[CHECKPOINT_KEY]["images"]
    return data.model_copy(update={"interpolation": images.get("interpolation", "bilinear")})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
