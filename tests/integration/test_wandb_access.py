"""Weights & Biases without key, network or package: one message before training, with the way on."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from frostline.tracking import wandb_access
from tests.integration.conftest import FROSTLINE, SHORT, Cli

KEY = "a" * 40
OFFLINE = "write to the run folder only with logger.wandb.offline=true, and send it later with `wandb sync`"


@contextmanager
def server(answer: int | None) -> Iterator[str]:
    """A server on this machine that answers everything with one status; None: it takes connections, and is silent."""
    if answer is None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize("answer", [200, 404, 500])
def test_a_server_that_answers_anything_is_there(answer: int) -> None:
    with server(answer) as url:
        assert wandb_access._unreachable(url) is None


def test_a_silent_server_and_a_closed_port_are_reported_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_access, "SECONDS", 1)
    began = time.monotonic()
    with server(None) as url:
        assert wandb_access._unreachable(url) == "timed out"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "Connection refused" in str(wandb_access._unreachable(f"http://127.0.0.1:{port}"))
    assert time.monotonic() - began < 10


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert wandb_access.wandb_problem(offline=False) == (
        "logger.wandb: the package wandb is not installed. Type `pip install wandb`, or choose logger=csv."
    )


def train(cli: Cli, home: Path, **env: str) -> str:
    """What a training with logger=wandb ends with: exit code 2, one message, no run."""
    alone = {"HOME": str(home), "NETRC": str(home / "no netrc"), "WANDB_MODE": "online", **env}
    done = cli(*FROSTLINE, "train", *SHORT, "logger=wandb", env=alone)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert list(home.glob("runs/*/config.yaml")) == []
    return done.stderr


def test_without_a_key_one_line_offers_to_write_offline(cli: Cli, tmp_path: Path) -> None:
    with server(200) as url:
        output = train(cli, tmp_path, WANDB_BASE_URL=url)
    assert output == (
        f"frostline: logger.wandb: there is no API key. Type `wandb login`, or set WANDB_API_KEY, or {OFFLINE}.\n"
    )


def test_without_a_network_one_line_offers_to_write_offline(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert train(cli, tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=url) == (
        f"frostline: logger.wandb: {url} cannot be reached ([Errno 111] Connection refused). "
        f"Check the network, or {OFFLINE}.\n"
    )


def test_a_key_of_the_wrong_form_is_reported_before_training(cli: Cli, tmp_path: Path) -> None:
    with server(200) as url:
        output = train(cli, tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY="short")
    assert output.startswith("frostline: logger.wandb: ")
    assert output.endswith(f"Type `wandb login`, or {OFFLINE}.\n")
    assert "short" not in output


@pytest.mark.slow
@pytest.mark.parametrize("answer", [401, 500])
def test_a_server_that_starts_no_run_is_one_message(cli: Cli, tmp_path: Path, answer: int) -> None:
    with server(answer) as url:
        alone = {"HOME": str(tmp_path), "WANDB_MODE": "online", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": url}
        limit = {"WANDB_INIT_TIMEOUT": "5"}
        done = cli(*FROSTLINE, "train", *SHORT, "logger=wandb", env={**alone, **limit})
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("frostline: ")]
    assert line.startswith("frostline: logger.wandb: no run could be started (")
    assert "logger.wandb.offline=true" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
