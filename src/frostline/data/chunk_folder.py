"""The format of a folder of shards, which `frostline pack` writes and `Streaming` reads: images in chunks.

    shards/frostline.json          format, classes, and each split's chunks with their sizes and checksums
    shards/train/index.json        litdata's index: `litdata.StreamingDataset("shards/train")` reads the folder too
    shards/train/labels.npy        class indices, int32, in the order of the images
    shards/train/chunk-0-0.bin …   the chunks, in litdata's format

A chunk holds, little-endian: the number of images n (uint32), where each begins and the last ends (n + 1 uint32), and
for each image the sizes of its three parts (uint32) and these: the encoded image as it was in its file, the class index
(int64), the file's name.
"""

import io
import json
import os
import re
import struct
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

FORMAT, VERSION = "frostline chunks", 1
MANIFEST, LABELS = "frostline.json", "labels.npy"
INDEX = "index.json"
LEAF = '{"type": null, "context": null, "children_spec": []}'
# litdata's description of items of three parts.
LITDATA_CONFIG = {
    "data_format": ("bytes", "int", "str"),
    "data_spec": f'[1, {{"type": "builtins.tuple", "context": "null", "children_spec": [{LEAF}, {LEAF}, {LEAF}]}}]',
    "item_loader": "PyTreeLoader",
    **dict.fromkeys(("chunk_size", "compression", "compression_level", "encryption")),
}
PARTS = struct.Struct("<3I")
BLOCK = 2**20
LABEL_BYTES = 8


class ChunkError(ValueError):
    """Shards cannot be read, or the store does not give them; the message says why."""

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's exception again from one text: its traceback, which ends in our message.
        super().__init__(message.strip().rpartition("ChunkError: ")[2])


class StoredImage(NamedTuple):
    """One image as it is stored."""

    content: bytes
    label: int
    name: str

    def to_bytes(self) -> bytes:
        """The image as a chunk holds it."""
        label, name = self.label.to_bytes(LABEL_BYTES, "little", signed=True), self.name.encode()
        return PARTS.pack(len(self.content), len(label), len(name)) + self.content + label + name


@dataclass(frozen=True)
class ChunkEntry:
    """A chunk in the manifest; `checksum` is the CRC-32 of the file."""

    file: str
    bytes: int
    images: int
    checksum: int


@dataclass(frozen=True)
class SplitEntry:
    """A split in the manifest."""

    chunks: Sequence[ChunkEntry]
    labels_checksum: int

    @property
    def images(self) -> int:
        return sum(chunk.images for chunk in self.chunks)


@dataclass(frozen=True)
class Manifest:
    """What `frostline.json` holds."""

    classes: Sequence[str]
    splits: Mapping[str, SplitEntry]

    def to_json(self) -> str:
        splits = {
            name: {"images": split.images, **asdict(split), "chunks": [asdict(chunk) for chunk in split.chunks]}
            for name, split in self.splits.items()
        }
        return json.dumps({"format": FORMAT, "version": VERSION, "classes": self.classes, "splits": splits}, indent=1)


def parse_manifest(content: bytes, *, where: str) -> Manifest:
    """The manifest from the bytes of `frostline.json`.

    Raises:
        ChunkError: it is no such file, of another version of the format, or corrupt.
    """
    try:
        raw = json.loads(content)
        if raw["format"] != FORMAT:
            raise ValueError(raw["format"])
        if raw["version"] != VERSION:
            raise ChunkError(
                f"path={where}: shards in version {raw['version']} of the format, and this frostline reads "
                f"version {VERSION}. Write them again, or use the frostline that wrote them."
            )
        return Manifest(
            classes=[str(name) for name in raw["classes"]],
            splits={name: _split(name, split) for name, split in raw["splits"].items()},
        )
    except ChunkError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f" ({error})" if isinstance(error, ValueError) else ""
        raise ChunkError(f"path={where}: its {MANIFEST} is corrupt, or is not one of frostline's{reason}.") from error


def _split(name: str, raw: Mapping[str, Any]) -> SplitEntry:
    split = SplitEntry([_checked(ChunkEntry(**chunk)) for chunk in raw["chunks"]], raw["labels_checksum"])
    files = {chunk.file for chunk in split.chunks}
    if not split.chunks or len(files) < len(split.chunks):
        raise ValueError(f"{name} has {len(split.chunks)} chunks in {len(files)} files")
    if split.images != raw["images"] or type(split.labels_checksum) is not int:
        raise ValueError(f"{name} has {raw['images']} images, its chunks {split.images}")
    return split


def _checked(entry: ChunkEntry) -> ChunkEntry:
    # A manifest may come from anywhere: a name with a slash in it would be read, or written in the cache, elsewhere.
    if not re.fullmatch(r"[\w-][\w.-]*", entry.file):
        raise ValueError(f"a chunk is named {entry.file!r}")
    counts = (entry.bytes, entry.images, entry.checksum)
    if any(type(count) is not int for count in counts) or min(counts) < 0 or not entry.images:
        raise ValueError(f"{entry.file} has {entry.images} images in {entry.bytes} bytes")
    if 8 + entry.images * (4 + PARTS.size + LABEL_BYTES) > entry.bytes:  # its table, and the least an image takes
        raise ValueError(f"{entry.images:,} images cannot lie in the {entry.bytes:,} bytes of {entry.file}")
    return entry


def chunk_file(items: Sequence[bytes]) -> bytes:
    """The content of a chunk of these items (`StoredImage.to_bytes`)."""
    begins = np.cumsum([4 * (len(items) + 2), *map(len, items)])
    return struct.pack("<I", len(items)) + begins.astype("<u4").tobytes() + b"".join(items)


def litdata_index(chunks: Sequence[ChunkEntry], *, chunk_bytes: int) -> str:
    """The content of `index.json`: a split's chunks, of at most `chunk_bytes` bytes of items, as litdata lists them."""
    listed = [
        {"filename": each.file, "chunk_bytes": each.bytes, "chunk_size": each.images, "dim": None} for each in chunks
    ]
    return json.dumps({"chunks": listed, "config": {**LITDATA_CONFIG, "chunk_bytes": chunk_bytes}})


def labels_file(labels: Sequence[int]) -> bytes:
    """The content of `labels.npy`."""
    stream = io.BytesIO()
    np.save(stream, np.asarray(labels, dtype=np.int32))
    return stream.getvalue()


def parse_labels(content: bytes, split: SplitEntry, *, where: str) -> "array[int]":
    """The class indices, four bytes each however many there are.

    Raises:
        ChunkError: the file is corrupt, or is another split's.
    """
    if zlib.crc32(content) != split.labels_checksum:
        raise ChunkError(
            f"{where}: corrupt, or of other images than those listed in {MANIFEST}. Write the shards again."
        )
    labels = array("i", np.load(io.BytesIO(content)).astype(np.int32).tobytes())
    if len(labels) != split.images:
        raise ChunkError(f"{where}: {len(labels):,} labels for {split.images:,} images. Write the shards again.")
    return labels


class OpenChunk:
    """A chunk that is open for reading, by position, so that processes may share it.

    Args:
        fd: of the chunk's file; closed with this object.
        where: names the chunk in messages.

    Raises:
        ChunkError: the file is not the one listed in the manifest.
    """

    def __init__(self, fd: int, entry: ChunkEntry, *, where: str) -> None:
        self._fd = fd
        self.where = where
        found = os.fstat(fd).st_size
        if found != entry.bytes:
            raise self._corrupt(f"{found:,} bytes in place of {entry.bytes:,}")
        table = os.pread(fd, 4 * (entry.images + 2), 0)
        count, *_ = struct.unpack_from("<I", table)
        self._begins = np.frombuffer(table, "<u4", offset=4)
        if (
            count != entry.images
            or self._begins[-1] != entry.bytes
            or (np.diff(self._begins.astype(np.int64)) < 0).any()
        ):
            raise self._corrupt("its table of images is not what it was")

    def __del__(self) -> None:
        os.close(self._fd)

    def verify(self, checksum: int) -> None:
        """Compare the CRC-32 of the chunk.

        Raises:
            ChunkError: the file has other bytes than when it was written.
        """
        found = start = 0
        while block := os.pread(self._fd, BLOCK, start):
            found, start = zlib.crc32(block, found), start + len(block)
        if found != checksum:
            raise self._corrupt(f"its bytes are not those listed in {MANIFEST}")

    def read(self, index: int) -> StoredImage:
        """The chunk's image of that index.

        Raises:
            ChunkError: its sizes do not add up.
        """
        begin, end = int(self._begins[index]), int(self._begins[index + 1])
        item = os.pread(self._fd, end - begin, begin)
        sizes = PARTS.unpack_from(item) if len(item) >= PARTS.size else (0, 0, 0)
        if PARTS.size + sum(sizes) != end - begin or sizes[1] != LABEL_BYTES:
            raise self._corrupt(f"its image {index} has another size than it had")
        content, label, name = item[PARTS.size :][: sizes[0]], item[-sizes[2] - 8 :][:8], item[len(item) - sizes[2] :]
        return StoredImage(content, int.from_bytes(label, "little", signed=True), name.decode(errors="replace"))

    def _corrupt(self, what: str) -> ChunkError:
        return ChunkError(f"{self.where}: corrupt ({what}). Copy it again, or write it again.")
