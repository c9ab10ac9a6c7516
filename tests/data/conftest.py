"""Photographs in a folder, the same as shards, and an S3-compatible store in a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frostline.data.chunk_writer import ChunkWriter
from frostline.data.image_folder import ImageFolder
from frostline.data.source import SPLITS

CHUNK = 0.004  # MiB: some three images a chunk


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 JPEGs of three classes, no two alike, and a PNG with transparency among them."""
    folder, draw = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for index in range(180):
        path = folder / ("fire", "fog", "ice")[index % 3] / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (24 + index % 5, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, quality=60 + index % 30)
    Image.new("RGBA", (20, 20), (200, 10, 10, 128)).save(folder / "fire/clear.png")
    return folder


@pytest.fixture(scope="session")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("data") / "shards"
    pack(photos, output)
    return output


def pack(photos: Path, output: Path, **options) -> None:
    source = ImageFolder(path=photos)
    images = {split: source.dataset(split) for split in SPLITS}
    ChunkWriter(**{"chunk_size": CHUNK, **options}).write(images, classes=source.classes, output=output)


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """The address of moto's S3 server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.fixture
def uploaded(shards: Path, store: str, credentials: None, request: pytest.FixtureRequest) -> str:
    """The shards' address in the store; each test has a bucket of its own."""
    return upload(shards, store)


def upload(folder: Path, store: str) -> str:
    import boto3

    client = boto3.client("s3", endpoint_url=store)
    bucket = f"b{time.time_ns()}"
    client.create_bucket(Bucket=bucket)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            client.upload_file(str(file), bucket, f"sets/{file.relative_to(folder).as_posix()}")
    return f"s3://{bucket}/sets"
