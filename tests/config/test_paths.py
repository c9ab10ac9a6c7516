"""Every key that holds a path: `~`, `$HOME` and relative paths mean the same in all of them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from tests.configs import config

from frostline.commands import run_folder
from frostline.commands.build import feature_cache
from frostline.commands.overrides import Invocation, check, problems_of
from frostline.config.commands import COMMANDS
from frostline.config.key_text import fields_of, nested_section, type_text
from frostline.config.paths import absolute
from frostline.config.section import Section
from frostline.config.speed import Cache
from frostline.data.streaming import default_cache

BIN = Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("~", "{home}"),
        ("~/a b", "{home}/a b"),
        ("$HOME/a", "{home}/a"),
        ("$NOT_SET/a", "{here}/$NOT_SET/a"),
        ("a/$HOME", "{here}/a/$HOME"),
        ("a/~", "{here}/a/~"),
        ("./~", "{here}/~"),
        ("a/../b", "{here}/b"),
        ("/a", "/a"),
        ("s3://bucket/~", "s3://bucket/~"),
        ("https://host/w.pth", "https://host/w.pth"),
    ],
)
def test_a_path_is_absolute_and_an_address_stays(typed: str, meant: str, home: Path) -> None:
    assert absolute(typed) == meant.format(home=home, here=home.parent / "here")


def test_a_home_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`~no_such_user/a`: no user has this home folder; .* is \./~no_such_user/a"):
        absolute("~no_such_user/a")
    invocation = Invocation(command="train", overrides=['output_dir="~no_such_user/a"'])
    [problem] = problems_of(invocation)
    assert problem.startswith("output_dir: `~no_such_user/a`: no user has this home folder")


def fields(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for key, field in fields_of(section).items():
        yield prefix + key, field
        if nested := nested_section(field.annotation):
            yield from fields(nested, f"{prefix}{key}.")


FIELDS = {
    key: field
    for name, command in COMMANDS.items()
    for key, field in (
        *((f"{name}: {key}", field) for key, field in command.top_keys().items()),
        *(
            found
            for group_name, group in command.groups().items()
            for schema in group.sections
            for found in fields(schema, f"{group_name}.")
        ),
    )
}
PATHS = {key: field for key, field in FIELDS.items() if "path" in type_text(field)}


def test_a_key_that_speaks_of_a_file_or_folder_is_declared_as_a_path() -> None:
    speaks = re.compile(r"\b(files?|folder|checkpoint|picture|path)\b")
    # Names of a class, of the run folder, of a phase, and of a metric.
    names = {"_target_", "name", "graph: phase", "gradients: phase", "lr_find: phase", "monitor"}
    assert [
        key
        for key, field in FIELDS.items()
        if "text" in type_text(field)
        and speaks.search(f"{key} {field.description}")
        and key.split(".")[-1] not in names
    ] == []


@pytest.mark.parametrize("key", PATHS)
def test_a_home_folder_is_one_in_every_path_key(key: str, home: Path) -> None:
    made = [home / "runs", home / "list.csv"]
    made[0].mkdir()
    made[1].touch()
    of_key = TypeAdapter(Annotated[PATHS[key].annotation, PATHS[key]])
    if re.search("checkpoint|_from", key):
        (made[0] / "last.ckpt").touch()
        assert of_key.validate_python("~/runs") == str(home / "runs/last.ckpt")
        return
    assert of_key.validate_python("~/runs") == str(home / "runs")
    if "list" in type_text(PATHS[key]):
        assert of_key.validate_python(["~/a", "b"]) == [str(home / "a"), str(home.parent / "here/b")]


def test_which_keys_hold_paths() -> None:
    assert set(PATHS) == {
        "train: output_dir", "train: resume_from", "train: init_from", "evaluate: checkpoint", "evaluate: output",
        "evaluate: pictures", "show: output", "export: checkpoint", "export: output", "export: inputs",
        "predict: checkpoint", "predict: inputs", "predict: output", "plan: output", "plan: export", "pack: output",
        "graph: checkpoint", "graph: output", "gradients: checkpoint", "gradients: output", "tour: weights",
        "lr_find: output", "calibrate: checkpoint", "explain: checkpoint", "explain: inputs", "explain: output",
        "data.path", "data.root", "data.decoded_cache", "data.cache_dir", "model.weights", "freeze.path",
        "cache.folder",
    }  # fmt: skip


def test_the_config_and_the_run_folder_have_them_absolute(home: Path) -> None:
    run_folder.register_resolvers()
    (home / "photos").mkdir()
    overrides = ['output_dir="~/runs"', "data=image_folder", 'data.path="~/photos"', "cache.folder=cache"]
    invocation = Invocation(command="train", overrides=overrides)
    assert problems_of(invocation) == []
    chosen = config(*overrides)
    assert chosen.output_dir == f"{home}/runs"
    assert chosen.data.path == f"{home}/photos"
    assert chosen.cache.folder == f"{home.parent}/here/cache"
    assert check(invocation).folder("hydra.run.dir") == f"{home}/runs/{run_folder.run_key()}"


def test_a_tilde_in_the_environment_is_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROSTLINE_CACHE", "~/features")
    assert feature_cache(Cache()).folder == home / "features"
    monkeypatch.delenv("FROSTLINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/caches")
    assert feature_cache(Cache()).folder == home / "caches/frostline/features"
    assert default_cache() == home / "caches/frostline/chunks"


def test_every_door_through_the_program(home: Path) -> None:
    """--config-dir with ~ and a tilde in a file of one's own; no folder named ~ is made."""
    own = home / "conf/experiment/mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\noutput_dir: ~/runs\ncache: {folder: $HOME/cache}\n")
    words = ["train", "--config-dir", "~/conf", "experiment=mine", "fit=false", "test=false"]
    done = subprocess.run([BIN / "frostline", *words, "--cfg", "job"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "frostline: fit, test: both are false, so there is nothing to do.\n")
    words[-1] = "test=true"
    done = subprocess.run([BIN / "frostline", *words, "--cfg", "job"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "output_dir: ~/runs" in done.stdout
    assert list((home.parent / "here").iterdir()) == []


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_run_folder_that_hydra_cannot_make_is_named_before_it_tries(key: str, home: Path) -> None:
    given = {
        "": rf"^{key}: takes the path of a folder, not an empty text\.$",
        "${gone.key}": rf"^{key}: Interpolation key 'gone.key' not found$",
        r"a\${b": r"^The run folder `a\${b` cannot have \${ in its name \(RUN_ID, output_dir\)\.$",
    }
    for value, output in given.items():
        with pytest.raises(ValueError, match=output):
            check(Invocation(command="train", overrides=[f'{key}="{value}"'])).folder(key)


def test_a_run_folder_in_a_file_is_a_path_too(home: Path) -> None:
    """No folder named ~ is made, for a sweep neither, nor where it is typed."""
    (home / "file").write_text("")
    (home / "experiment").mkdir()
    (home / "experiment/mine.yaml").write_text("# @package _global_\nhydra:\n  sweep:\n    dir: ~/file/x\n")
    own = ["experiment=mine", "--config-dir", str(home), "-m", "seed=1,2"]
    for words in (own, ['hydra.run.dir="~/file/x"']):
        done = subprocess.run([BIN / "frostline", "train", *words], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"frostline: The run folder `{home}/file/x` cannot be written")
    assert not Path("~").exists()


def test_a_name_that_is_too_long_for_the_disk_is_a_mistake(home: Path) -> None:
    with pytest.raises(ValueError, match=r"`y{300}`: File name too long"):
        absolute("y" * 300)
