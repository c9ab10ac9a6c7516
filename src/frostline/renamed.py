"""Names of earlier versions and those of today: the old ones are understood in checkpoints, and answered when typed."""

from collections.abc import Mapping
from typing import Any

# The presets of freezing once had the names of what trains; they have those of what is frozen.
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "freeze": {
        "head": "backbone",
        "from_layer4": "to_layer3",
        "from_layer3": "to_layer2",
        "from_layer2": "to_layer1",
        "from_layer1": "stem",
        "batch_norm_only": "all_but_batch_norm",
        "bias_only": "all_but_bias",
        "gradual": "gradual_unfreezing",
        "plateau": "unfreeze_on_plateau",
    }
}
# Old key to new one.
KEYS: Mapping[str, str] = {
    "data.packed": "data.decoded_cache",
    "data.packed_limit": "data.decoded_cache_limit",
    "trainer.gradient_clip_norm": "trainer.gradient_clip_val",
    "trainer.validate_every_n_epochs": "trainer.check_val_every_n_epoch",
}
# Keys without a successor, and why there is none.
REMOVED: Mapping[str, str] = {
    "optimizer.include_frozen": "is gone, as it changed nothing: without a gradient no optimizer moves a parameter. "
    "Leave it out.",
}


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config of an earlier version, such as a checkpoint's, with today's names and without removed keys."""
    found: dict[str, Any] = {}
    for group, node in settings.items():
        if isinstance(node, Mapping):
            renamed = {} if "_target_" in node else KEYS  # a user's own class has its own keys
            keys = {renamed.get(f"{group}.{key}", f"{group}.{key}"): value for key, value in node.items()}
            node = {key.partition(".")[2]: value for key, value in keys.items() if key not in REMOVED}
            if group in OPTIONS and "name" in node:
                node["name"] = OPTIONS[group].get(node["name"], node["name"])
        found[group] = node
    return found
