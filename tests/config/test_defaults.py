"""A default that Python's constructors have as well is the config's: neither can change alone."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.configs import config

from frostline.commands.optimizers import TORCH_OPTIMIZERS
from frostline.config.groups import RUN_GROUPS
from frostline.config.training import CrossEntropy
from frostline.data.build import SOURCES, source_class
from frostline.losses import LOSSES
from frostline.options import FeatureCache
from frostline.schedulers import SCHEDULERS

# Written otherwise: bytes for GB, an epoch's own scale, and what a config says by a word.
OTHERWISE = {"limit_bytes", "class_weights"}


def built() -> Iterator[tuple[str, Any, Any]]:
    """Name, section and class of what a config builds."""
    for name in SOURCES:
        yield f"data={name}", RUN_GROUPS["data"].by_name[name], source_class({"name": name})
    for name, schedule in SCHEDULERS.items():
        yield f"scheduler={name}", RUN_GROUPS["scheduler"].by_name[name], schedule
    yield "loss=cross_entropy", CrossEntropy, LOSSES["cross_entropy"]
    yield "cache", RUN_GROUPS["cache"].sections[0], FeatureCache
    for name, section in RUN_GROUPS["optimizer"].by_name.items():
        yield f"optimizer={name}", section, TORCH_OPTIMIZERS[name]


PATHS = {"data=image_folder", "data=csv", "data=streaming"}  # which need one
# Where they differ on purpose: frostline's SGD has momentum and weight decay; a config's path is absolute.
EXPECTED: dict[str, Any] = {
    "optimizer=sgd": {"momentum": (0.9, 0), "weight_decay": (0.0005, 0)},
    "data=torchvision": {"root": (str(Path.cwd() / "data"), "data"), "options": ({}, None)},
}


@pytest.mark.parametrize(
    ("name", "section", "build"), list(built()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_constructors_default_is_the_configs(name: str, section: Any, build: Any) -> None:
    group, _, option = name.partition("=")
    chosen = getattr(config(*([name] if option else [])), group) if name not in PATHS else None
    different = {}
    for key, parameter in inspect.signature(build).parameters.items():
        field = section.model_fields.get(key)
        if field is None or parameter.default is inspect.Parameter.empty or key in OTHERWISE | {"lr"}:
            continue
        ours = field.get_default(call_default_factory=True) if chosen is None else getattr(chosen, key)
        theirs = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        if ours != theirs:
            different[key] = (ours, theirs)
    assert different == EXPECTED.get(name, {})
