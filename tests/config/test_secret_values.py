"""Passwords and tokens: what a run writes and prints does not hold them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from frostline.config import secret_values
from frostline.config.secret_values import hidden, hide, marked, refuse_hidden, remember, with_secrets


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_values, "_known", {})


@pytest.mark.parametrize(
    ("settings", "recorded"),
    [
        ({"path": "s3://me:SECRET@bucket/x"}, {"path": "s3://***@bucket/x"}),
        ({"path": "https://SECRET@host/x"}, {"path": "https://***@host/x"}),
        ({"w": "https://h/w.pth?v=2&token=SECRET#x"}, {"w": "https://h/w.pth?v=2&token=***#x"}),
        ({"w": "https://h/w?X-Amz-Signature=SECRET&sig=abc"}, {"w": "https://h/w?X-Amz-Signature=***&sig=***"}),
        ({"w": "https://h/w?t=SECRETLONG"}, {"w": "https://h/w?t=***"}),
        ({"optimizer": {"api_key": "SECRET", "lr": 0.1}}, {"optimizer": {"api_key": "***", "lr": 0.1}}),
        ({"a": {"hfToken": "ab", "n_tokens": 3}}, {"a": {"hfToken": "***", "n_tokens": 3}}),
        ({"a": {"passwords": ["SECRET", "other"]}}, {"a": {"passwords": ["***", "***"]}}),
        ({"db_password": 12345678, "max_token": 512}, {"db_password": "***", "max_token": 512}),
        (
            {"headers": {"Authorization": "Bearer SECRET"}, "x": "SECRET"},
            {"headers": {"Authorization": "***"}, "x": "***"},
        ),
        ({"token": "SECRET", "note": "with SECRET in it"}, {"token": "***", "note": "with *** in it"}),
        ({"path": "/data/a@b?token", "name": "key"}, {"path": "/data/a@b?token", "name": "key"}),
        ({"path": "s3://bucket/x?v=2", "token": None}, {"path": "s3://bucket/x?v=2", "token": None}),
    ],
)
def test_what_is_recorded(settings: dict[str, object], recorded: dict[str, object]) -> None:
    remember(settings)
    assert hidden(settings) == recorded
    assert with_secrets(recorded, settings) == settings


def test_a_percent_encoded_password_is_hidden_decoded_as_well() -> None:
    remember({"path": "http://me:pa%2Fss@host"})
    assert (
        hide("no access for me with pa/ss to http://me:pa%2Fss@host") == "no access for me with *** to http://***@host"
    )


def test_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"MY_SECRET": "hunter2!", "HF": "hf_a1b2c3d4e5f6", "DATA": "/home/me/data2", "NODES": "2"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    raw = {name: f"${{oc.env:{name}}}" for name in values}
    remember(dict(values), {**raw, "x": "${oc.env:MISSING,default}"})
    assert hidden({"a": "x-hunter2!", **{name: values[name] for name in ("HF", "DATA", "NODES")}}) == {
        "a": "x-***", "HF": "***", "DATA": "/home/me/data2", "NODES": "2",
    }  # fmt: skip


def test_a_recorded_mark_is_no_value() -> None:
    recorded = {"data": {"path": "s3://***@bucket/x", "name": "streaming"}}
    assert marked(recorded) == ["data.path"]
    with pytest.raises(ValueError, match=r"data.path: last.ckpt does not keep passwords .* Type .* again: data.path=…"):
        refuse_hidden(recorded, where="last.ckpt")


OWN = """
import torch
class Own(torch.optim.SGD):
    def __init__(self, params, lr=0.1, api_token="", note=""):
        assert api_token == "SECRET" + "INKEY", api_token
        assert note == "SECRET" + "INENV", note
        super().__init__(params, lr=lr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cpu_ddp"])
def test_a_run_works_with_its_secrets_and_keeps_none(device: str, tmp_path: Path) -> None:
    (tmp_path / "conf/optimizer").mkdir(parents=True)
    (tmp_path / "conf/own_secret.py").write_text(OWN)
    (tmp_path / "conf/optimizer/own.yaml").write_text(
        '_target_: own_secret.Own\nlr: 0.1\napi_token: ""\nnote: ${oc.env:MY_SECRET}\n'
    )
    words = [
        *(sys.executable, "-m", "frostline", "train", "-m", "--config-dir", str(tmp_path / "conf"), "optimizer=own"),
        *("optimizer.api_token=SECRETINKEY", f"device={device}", "trainer.max_epochs=1", "model.weights=none"),
        *("data.image_size=32", "trainer.limit_train_batches=2", "logger=[csv,tensorboard,wandb]", "freeze=backbone"),
        *("logger.wandb.offline=true", f"output_dir={tmp_path}/runs"),
    ]
    env = {**os.environ, "MY_SECRET": "SECRETINENV", "RUN_ID": "run", "WANDB_SILENT": "false"}
    done = subprocess.run(words, capture_output=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert b"SECRETIN" not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"config.yaml", "facts.json", "multirun.yaml", "hparams.yaml", "last.ckpt"} <= {path.name for path in files}
    for path in files:
        assert b"SECRETIN" not in path.read_bytes(), path
        if path.suffix == ".ckpt":
            with zipfile.ZipFile(path) as archive:
                assert not [name for name in archive.namelist() if b"SECRETIN" in archive.read(name)]
    stored = torch.load(tmp_path / "runs/run/0/checkpoints/last.ckpt", weights_only=True)
    assert stored["frostline"]["settings"]["optimizer"]["api_token"] == "***"
