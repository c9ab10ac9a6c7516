"""Whatever is wrong with a YAML file, one message names the file and the line."""

from pathlib import Path

import pytest

from frostline.storage.yaml_file import alias_problem, read_mapping

NOT_READ = "cannot be read: "
WRONG = {
    "bracket": (b"a: 1\nb: [1\n", ", line 3: " + NOT_READ + "expected ',' or ']', but got '<stream end>'."),
    "indent": (b"_target_: a.B\n  lr: 0.1\n", ", line 2: " + NOT_READ + "mapping values are not allowed here."),
    "tab": (b"a:\n\tb: 1\n", ", line 2: " + NOT_READ + "found character '\\t' that cannot start any token."),
    "twice": (b"a: 1\nb:\n  c: 1\n  c: 2\n", ", line 4: " + NOT_READ + "the key `c` is there twice."),
    "tag": (
        b"a: 1\nlr: !!python/object/apply:os.getcwd []\n",
        ", line 2: " + NOT_READ + "could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd'.",
    ),
    "encoding": ("a: 1\nb: é\n".encode("latin-1"), ", line 2: is not UTF-8."),
    "binary": (b"a: 1\n\x00\x01", ", line 2: holds a character that YAML does not allow."),
    "list": (b"- a\n- b\n", ": holds no keys with values (KEY: VALUE), but one list."),
    "text": (b"lr\n", ": holds no keys with values (KEY: VALUE), but one str."),
    "two documents": (b"a: 1\n---\nb: 1\n", ", line 2: " + NOT_READ + "but found another document."),
    "anchor": (b"a: *b\n", ", line 1: " + NOT_READ + "found undefined alias 'b'."),
    "null": (b"a: 1\nnull: 2\n", ", line 2: " + NOT_READ + "a key is null."),
    "date": (b"a: 2026-13-45\n", ": month must be in 1..12."),
    "depth": (b"a: " + b"[" * 5000, ": is nested too deeply."),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_message_names_the_file_and_the_line(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_mapping(file)
    assert str(caught.value) == f"{file}{message}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.yaml: cannot be read \(No such file or directory\)\.$"):
        read_mapping(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    "content", [b"", b"# nothing\n", "\ufeffa: 1\n".encode(), b"x: &x {a: 1}\ny: {<<: *x, a: 2}\n"]
)
def test_what_is_sound_is_read(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert read_mapping(file) in ({}, {"a": 1}, {"x": {"a": 1}, "y": {"a": 2}})


def test_aliases_that_cannot_be_written_out_are_refused_before_they_are(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    file.write_text("\n".join(lines))
    assert alias_problem(file) == f"{file}: its aliases (*NAME) stand for more than 100,000 values."
    file.write_text("a: &x\n  b: *x\n")
    assert alias_problem(file) == f"{file}: an alias (*NAME) stands within what it names."
    file.write_text("a: &x {b: 1}\nc: *x\n")
    assert alias_problem(file) is None
