"""Keys that users know from elsewhere are answered with what to type here."""

from pathlib import Path

import pytest

from frostline.commands import run_folder
from frostline.commands.config_files import group_options
from frostline.commands.help import default_config
from frostline.commands.main import main
from frostline.commands.overrides import Invocation, _keys, problems_of
from frostline.config.guesses import GUESSES, WITHOUT_KEY


def problems(command: str, *overrides: str) -> list[str]:
    run_folder.register_resolvers()
    return problems_of(Invocation(command=command, overrides=overrides))


def test_every_guess_names_what_some_command_has() -> None:
    options = group_options(None)
    known = {*_keys(default_config("train", ("data=image_folder",))), *_keys(default_config("predict"))}
    words = {word for keys in GUESSES.values() for text in keys for word in text.split()}
    words |= {word for keys in WITHOUT_KEY.values() for text in keys for word in text.split()}
    for key, _, value in sorted(word.partition("=") for word in words):
        assert key in known or key in options, key
        assert key not in options or value in options[key], (key, value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("epochs", "trainer.max_epochs"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("batch_size", "data.batch_size"),
        ("trainer.devices", "device.devices"),
        ("devices", "device.devices"),
        ("ckpt_path", "resume_from"),
        ("fast_dev_run", "trainer.fast_dev_run"),
        ("gpus", "device=gpu device.devices=NUMBER"),
        ("num_workers", "data.workers"),
        ("data.num_workers", "data.workers"),
        ("pretrained", "model.weights=imagenet"),
        ("model.pretrained", "model.weights=imagenet"),
        ("label_smoothing", "loss.label_smoothing"),
        ("deterministic", "trainer.deterministic"),
    ],
)
def test_a_key_of_another_program_is_answered_with_ours(key: str, meant: str) -> None:
    [problem] = problems("train", f"{key}=1")
    assert problem.replace(" (float", "?").startswith(f"{key}: unknown key. Did you mean {meant}"), problem


def test_another_command_has_another_key_for_it() -> None:
    assert problems("evaluate", "ckpt_path=a")[0] == "ckpt_path: unknown key. Did you mean checkpoint?"
    assert problems("predict", "bs=4")[0] == "bs: unknown key. Did you mean batch_size?"
    assert problems("predict", "learning_rate=4")[0] == "learning_rate: unknown key. See --help for all keys."


def test_words_without_a_key_say_what_to_type(tmp_path: Path) -> None:
    photos = tmp_path / "photos (1)"
    photos.mkdir()
    assert problems("predict", "last.ckpt", str(photos)) == [
        f"last.ckpt {photos}: values need their keys. Type checkpoint=last.ckpt 'inputs=\"{photos}\"'"
    ]
    assert problems("predict", str(photos)) == [f"{photos}: values need their keys. Type 'inputs=\"{photos}\"'"]
    assert problems("train", str(tmp_path)) == [
        f"{tmp_path}: values need their keys. Type data=image_folder data.path={tmp_path}"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "10"], "--epochs: unknown option. Keys are typed without dashes: trainer.max_epochs=VALUE"),
        (["--lr=0.1"], "--lr=0.1: unknown option. Keys are typed without dashes: optimizer.lr=VALUE"),
        (["--data.path=x"], "--data.path=x: unknown option. Keys are typed without dashes: data.path=VALUE"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
    ],
)
def test_an_option_that_does_not_exist_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main("train", words)
    assert end.value.code == 2
    seen = capsys.readouterr()
    assert seen.err.startswith(f"frostline: {message}")
    assert seen.err.count("\n") == 1
    assert seen.out == ""
