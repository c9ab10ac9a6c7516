"""Shards, on a disk or in an S3-compatible store: a source that reads them chunk by chunk."""

import copy
import os
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.data.chunk_folder import (
    LABELS,
    MANIFEST,
    ChunkError,
    Manifest,
    OpenChunk,
    SplitEntry,
    StoredImage,
    parse_labels,
    parse_manifest,
)
from frostline.data.chunk_store import GIB, ChunkCache, ChunkStore, LocalFolder, S3Store
from frostline.data.decoding import MAX_PIXELS, decode_image, decoder_identity
from frostline.data.image_file import ImageBytes
from frostline.data.order import LANES, Chunks
from frostline.data.source import LabelledImage, LabelledImages
from frostline.storage.checksums import fingerprint


class StreamedImages(LabelledImages):
    """One split of a folder of shards, decoded from the bytes that the files had: the same pixels as from the files.

    What it holds grows with the chunks, and by four bytes an image.

    Args:
        window: chunks among which training images are shuffled at a time; see `frostline.data.order.chunk_order`.
        scaled_decoding: let `for_shorter_side` decode large JPEGs at reduced size.

    Raises:
        ChunkError: the labels cannot be read; on reading an image, its chunk cannot.
        UnreadableImage: on reading an image whose bytes cannot be decoded.
    """

    def __init__(
        self,
        store: ChunkStore,
        *,
        split: str,
        entry: SplitEntry,
        window: int,
        max_pixels: int = MAX_PIXELS,
        scaled_decoding: bool = True,
    ) -> None:
        self.store = store
        self.split = split
        self.entry = entry
        self.window = window
        self.max_pixels = max_pixels
        self.scaled_decoding = scaled_decoding
        self.shorter_side: int | None = None
        where = f"{split}/{LABELS}"
        self._labels = parse_labels(store.read(where), entry, where=f"{store.where}/{where}")
        self._begins = np.concatenate(([0], np.cumsum([chunk.images for chunk in entry.chunks], dtype=np.int64)))
        self._open: OrderedDict[int, OpenChunk] = OrderedDict()
        # In shared memory: of a loader's workers, which read every chunk each, one verifies it (50 ms for 64 MB).
        self._verified = torch.zeros(len(entry.chunks), dtype=torch.bool).share_memory_()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def labels(self) -> "array[int]":
        return self._labels

    @property
    def chunks(self) -> Chunks:
        """How the images lie in chunks: training goes from one to the next."""
        return Chunks([chunk.images for chunk in self.entry.chunks], self.window)

    @property
    def identity(self) -> str:
        """Changes with the images, the decoder and its settings."""
        parts = (self.entry, self.shorter_side, self.max_pixels, decoder_identity())
        return f"packed {fingerprint([repr(parts).encode()])}"

    def for_shorter_side(self, pixels: int) -> "StreamedImages":
        """See `frostline.data.source.ScalableImages`."""
        images = copy.copy(self)
        images._open = OrderedDict()
        images.shorter_side = pixels if self.scaled_decoding else None
        return images

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> LabelledImage:
        stored = self.stored(index)
        named = ImageBytes(f"{stored.name} ({self.split} image {index} of the shards)", stored.content)
        image = decode_image(named, max_pixels=self.max_pixels, shorter_side=self.shorter_side)
        return image, self._labels[index]

    def stored(self, index: int) -> StoredImage:
        """An image as it is stored.

        Raises:
            IndexError: there are not so many.
            ChunkError: its chunk cannot be read, or holds another image.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._begins, index, side="right")) - 1
        chunk = self._chunk(number)
        stored = chunk.read(index - int(self._begins[number]))
        if stored.label != self._labels[index]:
            raise ChunkError(f"{chunk.where}: of other images than those of {LABELS}. Copy the complete folder again.")
        return stored

    def _chunk(self, number: int) -> OpenChunk:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        entry = self.entry.chunks[number]
        where = f"{self.store.where}/{self.split}/{entry.file}"
        chunk = OpenChunk(self.store.open(self.split, entry), entry, where=where)
        if not self._verified[number]:
            chunk.verify(entry.checksum)
            self._verified[number] = True
        self._open[number] = chunk
        if len(self._open) > self.window + LANES:
            self._open.popitem(last=False)
        return chunk


class Streaming:
    """The source `data=streaming`: what `frostline pack` wrote, in a folder or at `s3://bucket/folder`.

    Args:
        path: the folder of shards, or its address.
        endpoint_url: of an S3-compatible store other than Amazon's.
        cache_dir: cache of chunks from a store; None for `~/.cache/frostline/chunks`. Processes of one machine
            share it.
        cache_limit: GiB that they may take.
        window: chunks among which training images are shuffled at a time.
        timeout: seconds to wait for the store, in each of 3 tries.
        max_pixels: larger images are errors, before they are decoded.
        scaled_decoding: decode large JPEGs at reduced size, where that leaves enough pixels.

    Raises:
        ChunkError: there are no shards, or they are of another version or corrupt, the store cannot be reached or
            refuses, or the cache is too small for the window.
    """

    def __init__(
        self,
        *,
        path: str,
        endpoint_url: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_limit: float = 20.0,
        window: int = 16,
        timeout: float = 20.0,
        max_pixels: int = MAX_PIXELS,
        scaled_decoding: bool = True,
    ) -> None:
        self.window = window
        self.max_pixels = max_pixels
        self.scaled_decoding = scaled_decoding
        self._store: ChunkStore = LocalFolder(path)
        if "://" in path:
            folder = default_cache() if cache_dir is None else Path(cache_dir).expanduser()
            cache = ChunkCache(folder, limit=int(cache_limit * GIB))
            self._store = S3Store(path, endpoint_url=endpoint_url, cache=cache, timeout=timeout)
        self._manifest: Manifest = parse_manifest(self._store.read(MANIFEST), where=path)
        if "://" in path:
            _check_cache_limit(self._manifest, window=window, limit=cache_limit)

    @property
    def classes(self) -> Sequence[str]:
        return self._manifest.classes

    def dataset(self, split: str) -> StreamedImages | None:
        entry = self._manifest.splits.get(split)
        if entry is None:
            return None
        if isinstance(self._store, LocalFolder):
            self._store.check(split, entry.chunks)
        return StreamedImages(
            self._store,
            split=split,
            entry=entry,
            window=self.window,
            max_pixels=self.max_pixels,
            scaled_decoding=self.scaled_decoding,
        )


def default_cache() -> Path:
    """The default folder of the chunk cache."""
    return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "frostline" / "chunks").expanduser()


def _check_cache_limit(manifest: Manifest, *, window: int, limit: float) -> None:
    """A cache smaller than the chunks read at a time would fetch each of them again and again."""
    for split, entry in manifest.splits.items():
        largest = sorted((chunk.bytes for chunk in entry.chunks), reverse=True)[: window + LANES]
        if sum(largest) > limit * GIB:
            raise ValueError(
                f"cache_limit={limit:g} GiB is too small: {len(largest)} chunks of {split} are read at a time, "
                f"{sum(largest) / GIB:.3g} GiB. Give it at least that, or write smaller chunks (chunk_size), or "
                f"set window to less than {window} (at least {LANES})."
            )
