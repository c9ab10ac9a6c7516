"""Types and values in words."""

from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import Field

from frostline.config.commands import COMMANDS
from frostline.config.groups import GROUP
from frostline.config.key_text import fields_of, nested_section, type_text, value_text
from frostline.config.section import OpenSection, OwnClass, Section


class Inner(Section):
    """A nested section."""

    size: int = Field(description="how many")


class Example(Section):
    """One key of each kind."""

    flag: bool
    share: float = Field(ge=0, lt=1)
    count: Annotated[int, Field(ge=1)] | None
    word: Literal["a", "b"]
    one: Literal["only"]
    mixed: Annotated[int, Field(ge=0)] | Literal["auto"]
    texts: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    pair: list[Annotated[float, Field(gt=0)]] = Field(min_length=2, max_length=2)
    factors: dict[str, Annotated[float, Field(gt=0)]]
    inner: Inner | None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("flag", "true or false"),
        ("share", "float ≥ 0 and < 1"),
        ("count", "integer ≥ 1 or null"),
        ("word", "one of a, b"),
        ("one", "only"),
        ("mixed", "integer ≥ 0 or auto"),
        ("texts", "list of text"),
        ("pair", "list of 2 values, each float > 0"),
        ("factors", "mapping of float > 0"),
        ("inner", "keys of its own or null"),
    ],
)
def test_types_in_words(key: str, text: str) -> None:
    assert type_text(fields_of(Example)[key]) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (None, "null"),
        (0.1, "0.1"),
        ([1, None, "a"], "[1, null, a]"),
        ({"fraction": 0.2, "train": ["head"], "on": False}, "{fraction: 0.2, train: [head], on: false}"),
    ],
)
def test_values_as_one_would_type_them(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_a_nested_section_is_found_inside_its_annotation() -> None:
    assert nested_section(fields_of(Example)["inner"].annotation) is Inner
    assert nested_section(list[Inner]) is Inner
    assert nested_section(fields_of(Example)["word"].annotation) is None


def sections(found: type[Section]) -> list[type[Section]]:
    """The section and those inside it."""
    inside = [nested_section(field.annotation) for field in found.model_fields.values()]
    return [found, *(deeper for section in inside if section is not None for deeper in sections(section))]


ALL = {
    deeper
    for command in COMMANDS.values()
    for top in (command, *(schema for group in command.groups().values() for schema in group.sections))
    for deeper in sections(top)
}


@pytest.mark.parametrize("section", sorted(ALL, key=lambda section: section.__name__), ids=lambda s: s.__name__)
def test_every_key_of_every_section_has_a_help_text_and_a_type_in_words(section: type[Section]) -> None:
    assert section.__doc__
    assert issubclass(section, OwnClass | OpenSection) or section.model_config["extra"] == "forbid"
    for key, field in fields_of(section).items():
        if GROUP in field.metadata:
            continue
        assert field.description, f"{section.__name__}.{key} has no description"
        assert not field.description.endswith("."), "the texts that show it add the full stop"
        text = type_text(field)
        assert "typing." not in text
        assert "Annotated" not in text
        assert "<class" not in text


def test_the_walk_found_the_whole_schema() -> None:
    assert len(ALL) > 40
    assert {"PhaseSection", "UntilSection", "WandbLogger"} <= {section.__name__ for section in ALL}


def test_every_option_of_a_group_has_its_name_in_its_schema() -> None:
    for command in COMMANDS.values():
        for group in command.groups().values():
            for name, schema in group.by_name.items():
                key = schema.model_fields["name"]
                assert name in (get_args(key.annotation) or key.examples)
