"""The command that a run prints can be pasted into a shell, whatever is in it and however the run was started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.configs import config

from frostline.commands.command_line import COMMAND_VARIABLE, command_line, command_to_go_on, for_workers
from frostline.commands.quoting import override_text, parsed, shell_text, shell_words, unreadable
from frostline.config import secret_values
from frostline.config.commands import TrainConfig

ODD = [
    *("a b", "my runs (1)=é", "it's", 'say "so"', "a,b", "[x]", "{a: 1}", "a:b", "$HOME", "`pwd`", "\\", "a\\"),
    *("#!&;|<>", "~", "~/x", "@x", "${x}", "\\${x}", "a=b", "", "null", "true", "1", "1e5", "nan", " a "),
    *("line\nline", "*?", "-x", "100%"),
]

PROGRAM = """
import json, sys
from pathlib import Path
from frostline.commands.command_line import command_to_go_on
from frostline.config.commands import TrainConfig
config = TrainConfig.model_construct()
print(json.dumps([sys.argv[1:], command_to_go_on(Path({checkpoint!r}), config)]))
"""


def started(*command: str | Path, cwd: Path, **environment: str) -> tuple[list[str], str]:
    env = {name: value for name, value in os.environ.items() if name != COMMAND_VARIABLE} | environment
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=True)
    words, printed = json.loads(done.stdout)
    return words, printed


@pytest.mark.parametrize("value", ODD)
def test_an_override_gives_the_key_exactly_this_text(value: str) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import OmegaConf

    config = OmegaConf.create({"key": "before"})
    [typed] = shell_words(shell_text(override_text("key", value)))
    override = parsed(typed)
    assert override is not None
    ConfigLoaderImpl._apply_overrides_to_config([override], config)
    assert config.key == value


def test_only_what_needs_quotes_gets_them() -> None:
    assert override_text("data.path", "/a/b-c_1.png") == "data.path=/a/b-c_1.png"
    assert override_text("data.path", "a (1).png") == 'data.path="a (1).png"'


def test_what_is_printed_can_be_pasted(tmp_path: Path) -> None:
    checkpoint = "/runs (1)=\u00e9/it's $HOME/last.ckpt"
    script = tmp_path / "train it.py"
    script.write_text(PROGRAM.format(checkpoint=checkpoint))
    own = ["--config-dir", "my=configs (1)"]
    typed = ["--config-dir", own[1], *(override_text("data.path", value) for value in ODD), "~cache", "+head.a=1"]
    words, printed = started(sys.executable, script, *typed, "resume_from=old", cwd=tmp_path)
    assert words == [*typed, "resume_from=old"]
    again, printed_again = started("sh", "-c", printed, cwd=tmp_path)
    assert again == [*own, f'resume_from="{checkpoint}"']
    assert printed_again == printed


def test_a_launcher_is_in_the_command(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM.format(checkpoint="/last.ckpt"))
    torchrun = tmp_path / "torchrun"
    torchrun.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        "sys.exit(subprocess.call([sys.executable, '-u', *sys.argv[2:]]))\n"
    )
    torchrun.chmod(0o755)
    launch = [torchrun, "--nproc-per-node=2", "train.py", "seed=1"]
    assert started(*launch, cwd=tmp_path, TORCHELASTIC_RUN_ID="none") == (
        ["seed=1"],
        "torchrun --nproc-per-node=2 train.py resume_from=/last.ckpt",
    )


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/frostline", "train", "seed=1"])
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-u", "/usr/bin/frostline", "train", "seed=1"])


@pytest.mark.usefixtures("installed")
def test_the_installed_script_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command_line() == "frostline train seed=1"
    for name, value in {"SLURM_PROCID": "0", "SLURM_NNODES": "2", "SLURM_NTASKS": "8"}.items():
        monkeypatch.setenv(name, value)
    assert command_line() == "srun --nodes=2 --ntasks=8 frostline train seed=1"


@pytest.mark.usefixtures("installed")
def test_a_run_goes_on_by_the_name_of_its_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "runs/a/checkpoints/last.ckpt"
    plain = config("init_from=null", "seed=1")
    assert command_to_go_on(checkpoint, plain) == f"frostline train resume_from={checkpoint}"
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "runs/a/config.yaml").touch()
    assert command_to_go_on(checkpoint, plain) == f"frostline train resume_from={tmp_path}/runs/a"
    monkeypatch.chdir(tmp_path)
    assert command_to_go_on(checkpoint, plain) == "frostline train resume_from=runs/a"
    secret = config("data=streaming", "data.path=s3://shards", "data.endpoint_url=https://me:hush@host")
    monkeypatch.setattr(secret_values, "_known", {})
    secret_values.remember(secret.as_dict())
    assert command_to_go_on(checkpoint, secret) == (
        "frostline train resume_from=runs/a 'data.endpoint_url=***' trust_checkpoint=true"
        "  # with the password or token in place of ***"
    )


def test_a_worker_is_reported_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, "python train.py 'a=\"b c\"'")
    assert command_line() == "python train.py 'a=\"b c\"'"
    assert for_workers() == {COMMAND_VARIABLE: "python train.py 'a=\"b c\"'"}
    monkeypatch.setenv("FROSTLINE_SWEEP", "/runs/sweep")
    begun = TrainConfig.model_construct(init_from="a", on_policy_change="refuse")
    assert command_to_go_on(Path("/runs/sweep/0/checkpoints/last.ckpt"), begun) == (
        "python train.py 'a=\"b c\"'"  # the sweep's folder is found by the command
    )


@pytest.mark.parametrize("value", ["a (1).png", "a=b", "it's", "{a", "[a", "a:b:[", "~(", "a\nb,(", "\u00e9 (x)"])
def test_the_quoting_in_the_message_is_accepted(value: str) -> None:
    """As the shell leaves it: what the message says to type, through `sh`."""
    message = unreadable(f"data.path={value}")
    assert message.startswith("data.path: the value is not in Hydra's grammar. To have it as a text, type ")
    typed = message.partition(", type ")[2]
    seen = subprocess.run(["sh", "-c", f"printf %s {typed}"], capture_output=True, text=True, check=True).stdout
    override = parsed(seen)
    assert override is not None
    assert override.value() == value
