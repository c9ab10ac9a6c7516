"""`--help`: made from the schema and the YAML files."""

import pytest

from frostline.commands.config_files import group_options
from frostline.commands.help import EXAMPLES, command_help, default_config, overview
from frostline.config.commands import COMMANDS
from frostline.config.key_text import fields_of


def test_the_overview_names_every_command() -> None:
    text = overview()
    assert all(f"  {name} " in text and (command.__doc__ or "") in text for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_explains_every_key_and_every_group(name: str) -> None:
    text, command, settings = command_help(name), COMMANDS[name], default_config(name)
    options = group_options(None)
    for group in (*command.groups(), *command.selectors):
        assert f"\n  {group}={'|'.join(options[group])}\n" in text
    for key in command.top_keys():
        assert f"\n  {key}" in text
    for group, schemas in command.groups().items():
        node = settings.get(group)
        if node is not None:
            for key, field in fields_of(schemas.schema_of(node)).items():
                assert f"\n  {group}.{key}" in text
                assert (field.description or "")[1:] in text


def test_a_key_is_shown_with_default_type_and_text() -> None:
    text = command_help("train")
    assert "\n  optimizer.momentum = 0.9\n      float ≥ 0. Share of the last update that is kept.\n" in text
    assert "\n  data.mean = null\n      list of 3 values, each float or null. Red, green and blue mean" in text


def test_a_required_key_is_reported_to_be() -> None:
    assert "\n  checkpoint = (required)\n" in command_help("evaluate")


def test_every_command_has_an_example() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    for name, examples in EXAMPLES.items():
        assert all(example in command_help(name) for example in examples)
