"""Typed configs for tests, composed as on the command line."""

import functools
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from frostline.commands.defaults import without_auto
from frostline.commands.help import default_config
from frostline.config.commands import COMMANDS


@functools.cache
def _composed(command: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    return default_config(command, overrides)


def settings(*overrides: str, command: str = "train") -> dict[str, Any]:
    """What a command line composes, before it is typed."""
    return deepcopy(_composed(command, overrides))


def typed(values: Mapping[str, Any], command: str = "train") -> Any:
    """The typed config of composed settings."""
    return COMMANDS[command].model_validate(values)


def config(*overrides: str, command: str = "train") -> Any:
    """The typed config of a command line."""
    return typed(settings(*overrides, command=command), command)


def chosen(*overrides: str, command: str = "train") -> Any:
    """The typed config of a command line, with a value in place of each `auto`."""
    return without_auto(config(*overrides, command=command)).config
