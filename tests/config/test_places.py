"""A file where a folder is meant, a folder where a file is meant: every key that takes a path, found by reflection."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from frostline.commands.main import main
from frostline.config.commands import COMMANDS
from frostline.config.groups import RUN_GROUPS
from frostline.config.key_text import Fields, fields_of, nested_section, type_text
from frostline.config.paths import Place, place_of
from frostline.config.validation import path_problems


def path_keys(fields: Fields, prefix: str = "") -> Iterator[tuple[str, Place | None]]:
    """Each key that takes a path, and what has to lie there."""
    for name, field in fields.items():
        if (inner := nested_section(field.annotation)) is not None:
            yield from path_keys(fields_of(inner), f"{prefix}{name}.")
        elif "path" in type_text(field).replace("path or URL", "path").split():
            yield f"{prefix}{name}", place_of(field.annotation, field.metadata)


def cases() -> Iterator[tuple[str, list[str], list[tuple[str, Place]]]]:
    """Command, words that choose an option, and its path keys; a key of several options, or commands, once."""
    seen = set()
    for command, kind in COMMANDS.items():
        sections: list[tuple[list[str], Fields, str]] = [([], kind.top_keys(), "")]
        for group, options in kind.groups().items():
            for section in options.sections:
                name = section.model_fields.get("name")
                chosen = [f"{group}={get_args(name.annotation)[0]}"] if name and get_args(name.annotation) else []
                sections.append((chosen, fields_of(section), f"{group}."))
        for chosen, fields, prefix in sections:
            found = []
            for key, place in path_keys(fields, prefix):
                assert place is not None, f"{command} {key}: its type does not say what lies there"
                if (prefix and (key, place) in seen) or (not chosen and prefix and prefix != "cache."):
                    continue
                seen.add((key, place))
                found.append((key, place))
            if found:
                yield command, chosen, found


@pytest.mark.parametrize(("command", "chosen", "keys"), list(cases()))
def test_one_message_names_the_key_what_was_found_and_what_is_expected(
    command: str, chosen: list[str], keys: list[tuple[str, Place]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, missing = tmp_path / "file", tmp_path / "folder", tmp_path / "missing"
    file.touch()
    folder.mkdir()
    of_kind = {
        "file": (folder, f"`{folder}` is a folder"),
        "folder": (file, f"`{file}` is a file; name a folder."),
        "either": (missing, f"there is no file or folder `{missing}`."),
    }
    words = [f"{key}={of_kind[place.kind][0]}" for key, place in keys]
    if "data.cache_dir" in dict(keys):
        words.append("data.path=s3://bucket/folder")
    with pytest.raises(SystemExit) as ended:
        main(command, [*chosen, *words])
    assert ended.value.code == 2
    text = capsys.readouterr()
    assert "Traceback" not in text.out + text.err
    lines = [line.strip().removeprefix("frostline: ") for line in text.err.splitlines()]
    for key, place in keys:
        assert len([line for line in lines if line.startswith(f"{key}: {of_kind[place.kind][1]}")]) == 1, text.err
        assert len([line for line in lines if line.startswith(f"{key}: ")]) == 1, text.err
    assert sorted(tmp_path.iterdir()) == [file, folder]
    assert not any(folder.iterdir())


def test_what_is_not_there_is_named_unless_it_is_made_on_demand(tmp_path: Path) -> None:
    gone, file = str(tmp_path / "gone"), tmp_path / "file"
    file.touch()
    for kind, role, problem in (
        ("file", "input", f"there is no file `{gone}`."),
        ("folder", "input", f"there is no folder `{gone}`."),
        ("either", "input", f"there is no file or folder `{gone}`."),
        ("folder", "filled", None),
        ("folder", "output", None),
    ):
        assert Place(kind, role).problem(gone) == problem  # type: ignore[arg-type]
    assert Place("file").problem(f"{file}/x") == f"`{file}/x` cannot be read (Not a directory)."
    assert Place("folder").problem("s3://bucket/folder") is None
    assert Place("file").problem(str(file)) is None


def test_weights_are_a_word_a_url_or_a_file(tmp_path: Path) -> None:
    def problems(weights: str) -> list[str]:
        values = {"model": RUN_GROUPS["model"].section({"name": "resnet18", "weights": weights})}
        return list(path_problems(COMMANDS["plan"].model_fields, values, typed={}))

    file = tmp_path / "weights.pth"
    file.touch()
    for weights in ("auto", "imagenet", "none", "https://example.org/weights.pth", str(file)):
        assert problems(weights) == []
    text = "It may be one of auto, imagenet, none or path."
    assert problems("imagnet") == [f"model.weights: there is no file `{Path.cwd()}/imagnet`. {text}"]
