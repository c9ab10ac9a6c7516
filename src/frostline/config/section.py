"""What every part of the config is built from.

The classes hold each key's type, range, default and help text, which feed the YAML of `--cfg job`, `--help`,
`docs/configuration/` and the error messages alike. Nothing in this package imports torch.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

MISSING = "???"  # what a composed config holds where the user must give a value


class Section(BaseModel):
    """A node of the config: every key typed and described, every other key an error."""

    # strict: "0.1" is no float and 1.5 is no int; only int -> float passes, as in YAML `lr: 1`.
    # defer_build: a command builds the validators of its own sections only, which saves 60 ms a start.
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _without_missing(cls, node: Any) -> Any:
        return {key: value for key, value in node.items() if value != MISSING} if isinstance(node, Mapping) else node

    def as_dict(self) -> dict[str, Any]:
        """The keys that were given, as plain values; of a class of the user's own also the defaults."""
        fields, given = type(self).model_fields, self.model_fields_set
        return {
            fields[key].alias or key if key in fields else key: _plain(value)
            for key, value in self
            if key in given or isinstance(self, OwnClass)
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.as_dict()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


class OpenSection(Section):
    """A node that holds classes of the user's own as well, each under a name of the user's."""

    model_config = ConfigDict(extra="allow")


class OwnClass(Section):
    """A class of the user's own, named by its path; its further keys are checked against its signature."""

    model_config = ConfigDict(extra="allow", populate_by_name=False)  # and what every section has

    target: str = Field(alias="_target_", description="dotted path of the class, such as my_package.MyClass")

    def arguments(self) -> dict[str, Any]:
        """The keys that are the class's own: arguments of its constructor."""
        return dict(self.model_extra or {})
