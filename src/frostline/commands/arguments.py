"""The library's messages name Python arguments; here they become the keys that a user types."""

import re
from collections.abc import Mapping

# Argument of a class or function of frostline's, or of Lightning's Trainer -> key; with its class where it alone would
# say too little.
KEYS: Mapping[str, str] = {
    # ImageDataModule
    "image_size": "data.image_size",
    "batch_size": "data.batch_size",
    "sampling": "data.sampling",
    "interpolation": "data.interpolation",
    # sources
    **{name: f"data.{name}" for name in ("path", "root", "dataset", "download", "on_bad_image", "rare_classes")},
    **{name: f"data.{name}" for name in ("val_fraction", "test_fraction", "split_seed")},
    **{name: f"data.{name}" for name in ("options", "decoded_cache", "decoded_cache_limit", "val_length")},
    **{name: f"data.{name}" for name in ("cache_dir", "cache_limit", "window", "timeout", "mean", "std")},
    "Loading.timeout": "data.loader_timeout",
    # build_network
    "weights": "model.weights",
    # the optimizer, TrainingOptions
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "fused": "optimizer.fused",
    "exclude_from_decay": "optimizer.exclude_from_decay",
    # schedules
    **{
        name: f"scheduler.{name}"
        for name in ("warmup", "min_factor", "step_size", "gamma", "div_factor", "final_div_factor")
    },
    # CrossEntropy
    "label_smoothing": "loss.label_smoothing",
    "class_weights": "loss.class_weights",
    # FreezePolicy, FreezingSchedule
    "policy": "freeze",
    "batch_norm": "freeze.batch_norm",
    "on_mismatch": "on_policy_change",
    # ComputeOptions, FeatureCache
    "frozen_prefix": "speed.frozen_prefix",
    "feature_cache": "speed.feature_cache",
    "engine": "speed.engine",
    "FeatureCache.folder": "cache.folder",
    "views": "cache.views",
    # load_from_checkpoint
    "trust_checkpoint": "trust_checkpoint",
    # Trainer
    **{
        name: f"trainer.{name}"
        for name in (
            *("precision", "gradient_clip_val", "val_check_interval", "accumulate_grad_batches"),
            *("limit_train_batches", "limit_val_batches", "limit_test_batches"),
        )
    },
}
# `name=value` anywhere, and `name:` where a message begins.
_NAMED = re.compile(
    rf"(?:\A|(?<=[\s(]))(?P<name>{'|'.join(KEYS)})(?:(?P<colon>:)|=(?P<value>'[^']*'|(?:True|False|None)\b)?)"
)
_VALUES = {"True": "true", "False": "false", "None": "null"}
_SWITCHED_OFF = {"feature_cache": "false"}  # None in Python


def with_keys(message: str) -> str:
    """The message with `data.batch_size=3` for `batch_size=3`, and values as YAML has them."""

    def key(found: re.Match[str]) -> str:
        if found["colon"]:
            return found[0] if found.start() else f"{KEYS[found['name']]}:"
        value = found["value"] or ""
        if value == "None" and found["name"] in _SWITCHED_OFF:
            value = _SWITCHED_OFF[found["name"]]
        return f"{KEYS[found['name']]}={_VALUES.get(value, value.strip(chr(39)))}"

    return _NAMED.sub(key, message)
