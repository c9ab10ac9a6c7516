"""Downloads into torch hub's cache, atomically."""

import base64
import errno
import hashlib
import shutil
import urllib.parse
import urllib.request
from pathlib import Path

import torch

from frostline.storage.atomic import atomically

# How long a download may stall.
STALL_SECONDS = 30.0


def download(url: str) -> Path:
    """Into torch hub's cache; reused when there, under a name that no other URL has."""
    name = Path(urllib.parse.urlparse(url).path).name
    path = hub_cache() / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if not path.exists():
        try:
            fetch(url, path)
        except OSError as error:
            raise FileNotFoundError(
                errno.ENOENT, f"weights: cannot download {url} ({getattr(error, 'reason', error)})"
            ) from error
    return path


def hub_cache() -> Path:
    """The folder in which torch hub keeps checkpoints."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def reach(url: str, *, timeout: float | None) -> None:
    """Ask for a file without fetching it: an answer may be waited for a shorter time than the next piece of a download.

    Raises:
        OSError: no answer within `timeout` seconds, `STALL_SECONDS` where there are none.
    """
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout or STALL_SECONDS).close()


def fetch(url: str, path: Path) -> None:
    """Download a file atomically: torch.hub keeps what it has got when the connection ends early."""
    path.parent.mkdir(parents=True, exist_ok=True)
    user, at, _ = urllib.parse.urlsplit(url).netloc.rpartition("@")
    request = urllib.request.Request(url.replace(f"{user}@", "", 1) if at else url)
    if at:
        word = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    with (
        urllib.request.urlopen(request, timeout=STALL_SECONDS) as answer,
        atomically(path) as part,
        part.open("wb") as file,
    ):
        shutil.copyfileobj(answer, file)
        length = answer.headers["Content-Length"]
        if length is not None and file.tell() != int(length):
            raise OSError(f"the connection ended after {file.tell():,} of {int(length):,} bytes")
