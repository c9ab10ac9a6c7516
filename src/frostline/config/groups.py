"""The groups of a config: the section of each option, and all that describe a run."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args

from pydantic import Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from frostline.config.augment import Augment
from frostline.config.data import Source
from frostline.config.freeze import Freeze
from frostline.config.model import Head, Model
from frostline.config.optimizer import Optimizer, Scheduler
from frostline.config.section import OwnClass, Section
from frostline.config.speed import Cache, Speed
from frostline.config.training import Callbacks, Device, Loggers, Loss, Metrics, TrainerSection

Seed = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True)
class Group:
    """A config group: one section for all its options, or one for each value of the key `name`."""

    sections: tuple[type[Section], ...]

    @functools.cached_property
    def by_name(self) -> Mapping[str, type[Section]]:
        """The section of each option; empty where one section is for all. LIBRARY/NAME stands for any name."""
        named = self.sections if len(self.sections) > 1 else ()
        fields = [(section, section.model_fields["name"]) for section in named if "name" in section.model_fields]
        return {name: kind for kind, key in fields for name in get_args(key.annotation) or key.examples or ()}

    @functools.cached_property
    def own(self) -> type[OwnClass] | None:
        """The section of a class of the user's own, named by `_target_`."""
        return next((section for section in self.sections if issubclass(section, OwnClass)), None)

    def schema_of(self, node: Mapping[str, Any]) -> type[Section] | None:
        """The section of a composed node, or None if its `name` is unknown."""
        if len(self.sections) == 1:
            return self.sections[0]
        return self.own if "_target_" in node and self.own else self.named(str(node.get("name")))

    def named(self, name: str) -> type[Section] | None:
        """The section of an option of this name, or None."""
        return self.by_name.get(name) or self.by_name.get(f"{name.partition('/')[0]}/NAME")

    def section(self, node: Any) -> Section:
        """A composed node as the section of its option.

        Raises:
            pydantic.ValidationError, pydantic_core.PydanticCustomError: it is none.
        """
        if isinstance(node, Section):
            return node
        if not isinstance(node, Mapping):
            raise PydanticCustomError("no_section", "takes the name of an option")
        if (schema := self.schema_of(node)) is None:
            raise PydanticCustomError("unknown_option", "unknown option")
        return schema.model_validate(node)


class IsGroup:
    """Marks the fields of a config that are groups: only the chosen option's section is built and checked."""

    def __get_pydantic_core_schema__(self, source: Any, _: Any) -> core_schema.CoreSchema:
        schema = core_schema.no_info_plain_validator_function(_group(source).section)
        return core_schema.nullable_schema(schema) if type(None) in get_args(source) else schema


def _group(annotation: Any) -> Group:
    parts = get_args(annotation) or (annotation,)
    return Group(tuple(part for part in parts if issubclass(part, Section)))


GROUP = IsGroup()


class CommandConfig(Section):
    """The config of a command; its docstring is the command's help."""

    selectors: ClassVar[tuple[str, ...]] = ()  # groups whose options only set keys of other groups

    @field_validator("*")
    @classmethod
    def _note(cls, value: Any, info: ValidationInfo) -> Any:
        """Keep what is sound beside what is not: the context is a dictionary for it."""
        if info.context is not None:
            info.context[info.field_name] = value
        return value

    @classmethod
    def groups(cls) -> dict[str, Group]:
        """The groups, by name."""
        return {name: _group(field.annotation) for name, field in cls.model_fields.items() if GROUP in field.metadata}

    @classmethod
    def top_keys(cls) -> dict[str, FieldInfo]:
        """The keys outside the groups."""
        return {name: field for name, field in cls.model_fields.items() if GROUP not in field.metadata}


class RunGroups(CommandConfig):
    """All that describes a run."""

    selectors = ("experiment",)

    seed: Seed = Field(default=0, description="seed of weights, order and augmentation")
    model: Annotated[Model, GROUP]
    head: Annotated[Head, GROUP]
    freeze: Annotated[Freeze, GROUP]
    data: Annotated[Source, GROUP]
    augment: Annotated[Augment, GROUP]
    loss: Annotated[Loss, GROUP]
    optimizer: Annotated[Optimizer, GROUP]
    scheduler: Annotated[Scheduler, GROUP]
    device: Annotated[Device, GROUP]
    trainer: Annotated[TrainerSection, GROUP]
    callbacks: Annotated[Callbacks, GROUP]
    metrics: Annotated[Metrics, GROUP]
    logger: Annotated[Loggers, GROUP]
    speed: Annotated[Speed, GROUP]
    cache: Annotated[Cache, GROUP]


RUN_GROUPS: Mapping[str, Group] = RunGroups.groups()
