"""Where chunks come from: a folder, or an S3-compatible store with a local cache."""

import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from frostline.data.chunk_folder import MANIFEST, ChunkEntry, ChunkError
from frostline.storage.atomic import atomically
from frostline.storage.locks import locked
from frostline.storage.lru import DiskFullError, OverLimitError, evict, mark_used

GIB = 2**30
TRIES = 3
LOCKS = 64
ADVICE = "type cache_dir=ANOTHER_FOLDER"
INSTALL = "pip install 'frostline[streaming]'"


class ChunkStore(Protocol):
    """A folder of shards, wherever it is."""

    where: str

    def read(self, name: str) -> bytes:
        """A small file of it.

        Raises:
            ChunkError: it is not there, or cannot be read.
        """

    def open(self, split: str, entry: ChunkEntry) -> int:
        """A file descriptor of a chunk, which is the caller's to close.

        Raises:
            ChunkError: it is not there, cannot be read, or arrives corrupt.
        """


class LocalFolder:
    """A folder of shards on a disk, which may be a network's; chunks are read where they lie."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = Path(path).expanduser()
        self.where = str(path)

    def read(self, name: str) -> bytes:
        if not self.root.is_dir():
            raise ChunkError(f"path={self.where}: no such folder.")
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError as error:
            raise missing(self.where, name) from error
        except OSError as error:
            raise ChunkError(f"{self.root / name}: cannot be read ({error.strerror}).") from error

    def check(self, split: str, entries: Sequence[ChunkEntry]) -> None:
        """Whether all chunks of a split are there.

        Raises:
            ChunkError: one is not.
        """
        for entry in entries:
            path = self.root / split / entry.file
            if not path.is_file():
                raise ChunkError(f"{path}: missing, but listed in {MANIFEST}. Copy the complete folder again.")

    def open(self, split: str, entry: ChunkEntry) -> int:
        path = self.root / split / entry.file
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ChunkError(
                f"{path}: cannot be read ({error.strerror}), though {MANIFEST} lists it. Copy the folder again."
            ) from error


class S3Store:
    """A folder of shards in an S3-compatible store, `s3://bucket/folder`, fetched chunk by chunk with boto3.

    Credentials are found as the AWS tools find them: environment, `~/.aws`, the machine's role.

    Args:
        endpoint_url: of a store other than Amazon's.
        cache: of fetched chunks.
        timeout: seconds to wait for a connection, or for the next bytes, in each of 3 tries.

    Raises:
        ChunkError: boto3 is not installed.
    """

    def __init__(self, url: str, *, endpoint_url: str | None, cache: "ChunkCache", timeout: float) -> None:
        self.where = url.rstrip("/")
        self.endpoint_url = endpoint_url
        self.cache = cache
        self.timeout = timeout
        self._client: tuple[int, Any] = (0, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": (0, None)}

    def read(self, name: str) -> bytes:
        stream = io.BytesIO()
        self._fetch(name, stream)
        return stream.getvalue()

    def open(self, split: str, entry: ChunkEntry) -> int:
        name = f"{split}/{entry.file}"

        def fetch(file: IO[bytes]) -> None:
            self._fetch(name, file)

        # Written again under the same address, a chunk has another checksum: it is not taken for the old one.
        name_in_cache = f"{zlib.crc32(self.where.encode()):08x}-{split}-{entry.checksum:08x}-{entry.file}"
        return self.cache.open(name_in_cache, entry, fetch=fetch, where=f"{self.where}/{name}")

    def _fetch(self, name: str, file: IO[bytes]) -> None:
        if self._client[0] != os.getpid():  # a forked process must not share its parent's connections
            self._client = os.getpid(), _s3_client(self.where, endpoint_url=self.endpoint_url, timeout=self.timeout)
        bucket, _, folder = self.where.removeprefix("s3://").partition("/")
        with self._explained(name):
            self._client[1].download_fileobj(bucket, f"{folder}/{name}".lstrip("/"), file)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore import exceptions

        at = f" at {self.endpoint_url}" if self.endpoint_url else ""
        try:
            yield
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise ChunkError(
                f"path={self.where}: there are no credentials for the store. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for a profile of ~/.aws."
            ) from error
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("404", "NoSuchKey"):
                raise missing(self.where, name) from error
            reasons = {"NoSuchBucket": "there is no such bucket", "403": "these credentials may not read it"}
            reasons["AccessDenied"] = reasons["403"]
            raise ChunkError(
                f"path={self.where}: {reasons.get(code, f'the store answers {code}')}{at} (asked for {name})."
            ) from error
        except (exceptions.BotoCoreError, exceptions.HTTPClientError, Boto3Error, ValueError) as error:
            first = str(error).partition("\n")[0].rstrip(".")
            raise ChunkError(
                f"path={self.where}: the store{at} does not give {name} after {TRIES} tries of up to "
                f"{self.timeout:g} s, timeout={self.timeout:g} ({first})."
            ) from error


class ChunkCache:
    """Chunks on a local disk, shared by the processes of a machine, under LRU eviction.

    A chunk that is evicted while a process reads it takes disk space until that process closes it.

    Args:
        folder: it may serve any number of folders of shards.
        limit: bytes of all chunks in it.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def open(self, name: str, entry: ChunkEntry, *, fetch: Callable[[IO[bytes]], None], where: str) -> int:
        """A file descriptor of the chunk, fetched by one process while the others wait for it.

        Raises:
            ChunkError: what was fetched is corrupt, or cannot be written.
        """
        path = self.folder / name
        try:
            while (fd := _complete(path, entry.bytes)) is None:
                # A fixed few, since a lock's file must not be removed: a process waiting for it would not notice.
                with locked(self.folder / f".lock{zlib.crc32(name.encode()) % LOCKS}", advice=ADVICE):
                    if not path.exists() or path.stat().st_size != entry.bytes:
                        self._fetch(path, entry, fetch, where)
            return fd
        except OSError as error:
            reason = error.strerror or error
            raise ChunkError(f"cache_dir={self.folder}: cannot be used ({reason}).") from error

    def _fetch(self, path: Path, entry: ChunkEntry, fetch: Callable[[IO[bytes]], None], where: str) -> None:
        with atomically(path, durable=False) as part:
            with locked(self.folder / ".lock", advice=ADVICE), part.open("wb") as file:
                with suppress(OverLimitError, DiskFullError):  # rather over the limit than not at all
                    evict(self.folder, suffix=".bin", needed=entry.bytes, limit=self.limit)
                file.truncate(entry.bytes)  # so that other processes count it
            with part.open("rb+") as file:
                fetch(file)
            content = part.read_bytes()
            if len(content) != entry.bytes or zlib.crc32(content) != entry.checksum:
                raise ChunkError(
                    f"{where}: corrupt (its bytes are not those listed in {MANIFEST}). Upload the folder again."
                )


def _complete(path: Path, size: int) -> int | None:
    """The chunk, opened, as another process may evict it at any time; None where it is missing or incomplete."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if os.fstat(fd).st_size != size:
        os.close(fd)
        return None
    mark_used(path)
    return fd


def missing(where: str, name: str) -> ChunkError:
    """The message for a file that is not there."""
    if name == MANIFEST:
        return ChunkError(f"path={where}: no shards there (it has no {MANIFEST}). `frostline pack` writes them.")
    return ChunkError(f"{where}/{name}: missing, but listed in {MANIFEST}. Copy the complete folder again.")


def _s3_client(url: str, *, endpoint_url: str | None, timeout: float) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ChunkError(f"path={url}: reading from a store needs boto3. Type: {INSTALL}") from error
    config = Config(
        connect_timeout=timeout,
        read_timeout=timeout,
        retries={"total_max_attempts": TRIES, "mode": "standard"},
        # Buckets as parts of the host name need wildcard entries in the DNS, which stores other than Amazon's lack.
        s3={"addressing_style": "path"} if endpoint_url else {},
    )
    return boto3.Session().client("s3", endpoint_url=endpoint_url, config=config)
