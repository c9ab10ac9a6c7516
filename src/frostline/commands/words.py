"""What is wrong with single words of a command line, before anything is composed."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from frostline.commands.quoting import override_text, parsed, shell_text
from frostline.config.groups import CommandConfig
from frostline.config.guesses import WITHOUT_KEY
from frostline.config.key_text import value_text
from frostline.config.validation import unknown_choice

# Groups of which several options may be chosen.
LISTS = ("logger",)


def key_of(override: Override) -> str:
    """The key or group of an override, without + and ~."""
    return str(override.get_key_element()).lstrip("+~")


def typed_keys(overrides: Sequence[str]) -> set[str]:
    """The keys and groups of a command line's overrides, as texts."""
    return {text.partition("=")[0].lstrip("+~").partition("@")[0] for text in overrides}


def apart(kind: type[CommandConfig], words: Sequence[str]) -> list[str]:
    """What to type for `optimizer.lr 0.1` and for `optimizer.lr = 0.1`."""
    found = []
    for place, word in enumerate(words):
        rest = words[place + 1 : place + 3]
        value = rest[1:] if rest and rest[0] == "=" else rest[:1] if "." in word else []
        if word.partition(".")[0] in kind.model_fields and value and "=" not in (word + value[0]):
            found.append(f"{word}: a key and its value are one word. Type {shell_text(f'{word}={value[0]}')}")
    return found


def without_keys(command: str, words: Sequence[str]) -> str | None:
    """What to type for `frostline predict CHECKPOINT FOLDER`."""
    bare = [word for word in words if word and "=" not in word and not word.startswith("~")]
    keys = WITHOUT_KEY[command]
    if bare and keys[:1] == ("checkpoint",) and Path(bare[0]).expanduser().is_dir():
        keys = keys[1:]
    keys = keys[: len(bare)]
    if not bare or len(keys) < len(bare) or not any(Path(word).expanduser().exists() for word in bare):
        return None
    typed = [(key.split(), word) for key, word in zip(keys, bare, strict=True)]
    asked = shell_text(*(part for key, word in typed for part in (*key[:-1], override_text(key[-1], word))))
    return f"{' '.join(bare)}: values need their keys. Type {asked}"


def unswept(texts: Sequence[str]) -> list[str]:
    """What to type in place of several values where nothing is swept."""
    found = []
    for text in texts:
        override = parsed(text)
        if override is not None and override.is_sweep_override():
            key, value = key_of(override), text.partition("=")[2]
            listed = f" as a list {shell_text(f'{key}=[{value}]')}," if override.is_choice_sweep() else ""
            quoted = shell_text(override_text(key, value))
            found.append(
                f"{key}: several values are for a sweep, with -m. To have them{listed} as a text type {quoted}"
            )
    return found


def option_problem(override: Override, options: list[str], kind: type[CommandConfig]) -> str | None:
    """What is wrong with the choice of an option of a group."""
    key, groups = key_of(override), kind.groups()
    if override.is_delete():
        return f"~{key}: cannot be left out; choose one of {', '.join(options)}." if key in groups else None
    if override.is_add() and key in (*groups, *kind.selectors):
        return f"+{key}: this group has an option already; write {key}=… without +."
    if override.value() is None:
        return f"{key}=null: takes the name of an option, or is left out. The choices are: {', '.join(options)}."
    if isinstance(override.value(), list) and key in groups and key not in LISTS:
        swept = ",".join(map(str, override.value()))
        return f"{key}: takes one option. To try several one after the other: -m {key}={swept}"
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    for value in values:
        for option in value if isinstance(value, list) else [value]:
            if str(option) not in options and f"{str(option).partition('/')[0]}/NAME" not in options:
                return unknown_choice(key, value_text(option), options)
    return None


def adapted(texts: Sequence[str]) -> list[str]:
    """The overrides for Hydra in place of those that were typed.

    `freeze.lr={stem: 0.01}` adds keys to a mapping that is empty by default, which Hydra does for `++` only; keys that
    are not read are found afterwards, as for a `+` that a user types.
    """
    values = [None if (override := parsed(text)) is None else override.value() for text in texts]
    return [
        f"++{text}" if isinstance(value, dict) and not text.startswith(("+", "~")) else text
        for text, value in zip(texts, values, strict=True)
    ]
