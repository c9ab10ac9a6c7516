"""What every part of the config schema is built from.

The YAML files in `conf/` hold the values, so that `--cfg job` shows them all; the schema holds what a value means:
its type, its range and a help text, which feeds `--help`, `docs/configuration/` and the error messages alike.
Nothing in this package imports torch.
"""

from pydantic import BaseModel, ConfigDict, Field, JsonValue

# What an output key names; checked before the work.
FILE: dict[str, JsonValue] = {"output": "file"}
FOLDER: dict[str, JsonValue] = {"output": "folder"}


class Section(BaseModel):
    """A node of the config: every key typed and described, every other key an error."""

    # strict: "0.1" is no float and 1.5 is no int; only int -> float passes, as in YAML `lr: 1`.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class OwnClass(Section):
    """A class of the user's own, named by its path; its further keys are checked against its signature."""

    model_config = ConfigDict(extra="allow", populate_by_name=False)  # and what every section has

    target: str = Field(alias="_target_", description="dotted path of the class, such as my_package.MyClass")
