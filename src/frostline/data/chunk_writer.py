"""Write a source's images into a folder of shards, atomically; see `frostline.data.chunk_folder`."""

import io
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from frostline.data.batches import unchanged
from frostline.data.chunk_folder import (
    INDEX,
    LABELS,
    MANIFEST,
    ChunkEntry,
    Manifest,
    SplitEntry,
    StoredImage,
    chunk_file,
    labels_file,
    litdata_index,
    parse_labels,
)
from frostline.data.files import FileImages
from frostline.data.image_file import UnreadableImage
from frostline.data.seeding import stable_seed
from frostline.data.source import LabelledImages
from frostline.data.streaming import StreamedImages
from frostline.storage.atomic import atomic_folder, write_text
from frostline.storage.names import utf8_name

MIB = 2**20

Progress = Callable[[str, int], None]


@dataclass(kw_only=True)
class ChunkSummary:
    """What was written: images, chunks and bytes of each split, and the broken images that were left out."""

    images: dict[str, int] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ChunkWriter:
    """How images are written into shards.

    Attributes:
        chunk_size: MiB of a chunk; an image that is larger gets a chunk of its own.
        seed: of the order in which training images are written: each chunk is a random sample of them. The other splits
            keep their order.
        skip_broken: leave out images that cannot be read, where they are otherwise an error.
        workers: processes that read and check images.
    """

    chunk_size: float = 64.0
    seed: int = 0
    skip_broken: bool = False
    workers: int = 0

    def write(
        self,
        images: Mapping[str, LabelledImages],
        *,
        classes: Sequence[str],
        output: Path,
        progress: Progress = lambda split, done: None,
    ) -> ChunkSummary:
        """Write the splits into `output`, which appears when it is complete.

        Args:
            progress: called with a split and how many of its images are done.

        Raises:
            ValueError: `output` is there and not empty; labels are soft; images cannot be read, all of which
                are named; a class is left without a training image; or `output` cannot be written.
        """
        refuse_filled(output)
        summary = ChunkSummary()
        try:
            with atomic_folder(output) as folder:
                splits = {
                    split: self._split(images[split], folder / split, split, summary, progress) for split in images
                }
                if summary.broken and not self.skip_broken:
                    listed = "\n".join(f"  {line}" for line in summary.broken)
                    raise ValueError(
                        f"{len(summary.broken)} images cannot be read, so nothing was written. Fix or remove them, or "
                        f"leave them out with skip_broken=true:\n{listed}"
                    )
                entries = {split: entry for split, entry in splits.items() if entry is not None}
                _refuse_empty_classes(folder, entries, classes)
                write_text(folder / MANIFEST, Manifest(list(classes), entries).to_json() + "\n")
        except OSError as error:
            refuse_filled(output)
            raise ValueError(f"output={output}: cannot be written ({error.strerror or error}).") from error
        return summary

    def _split(
        self, images: LabelledImages, folder: Path, split: str, summary: ChunkSummary, progress: Progress
    ) -> SplitEntry | None:
        if images.labels is None:
            raise ValueError(f"The {split} images have soft labels, and shards hold one class for each image.")
        order = torch.arange(len(images))
        if split == "train":
            generator = torch.Generator().manual_seed(stable_seed(self.seed, "pack"))
            order = torch.randperm(len(images), generator=generator)
        chunks, labels = _ChunkFiles(folder, chunk_bytes=max(1, int(self.chunk_size * MIB))), array("i")
        loader: DataLoader[Any] = DataLoader(
            EncodedImages(images, split=split),
            sampler=order.tolist(),
            batch_size=None,
            collate_fn=unchanged,
            num_workers=self.workers,
        )
        for done, item in enumerate(loader, start=1):
            progress(split, done)
            if isinstance(item, str):
                summary.broken.append(item)
            elif not summary.broken or self.skip_broken:
                chunks.add(item)
                labels.append(item.label)
        if not labels:
            return None
        chunks.flush()
        (folder / INDEX).write_text(litdata_index(chunks.entries, chunk_bytes=chunks.chunk_bytes))
        content = labels_file(labels)
        (folder / LABELS).write_bytes(content)
        summary.images[split], summary.chunks[split] = len(labels), len(chunks.entries)
        summary.bytes[split] = sum(entry.bytes for entry in chunks.entries)
        return SplitEntry(chunks.entries, zlib.crc32(content))


class _ChunkFiles:
    """Writes images into chunks of at most so many bytes; a larger image gets a chunk of its own."""

    def __init__(self, folder: Path, *, chunk_bytes: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.chunk_bytes = chunk_bytes
        self.entries: list[ChunkEntry] = []
        self._items: list[bytes] = []
        self._size = 0

    def add(self, image: StoredImage) -> None:
        item = image.to_bytes()
        if self._items and self._size + len(item) > self.chunk_bytes:
            self.flush()
        self._items.append(item)
        self._size += len(item)

    def flush(self) -> None:
        content, file = chunk_file(self._items), f"chunk-0-{len(self.entries)}.bin"
        (self.folder / file).write_bytes(content)
        self.entries.append(ChunkEntry(file, len(content), len(self._items), zlib.crc32(content)))
        self._items, self._size = [], 0


class EncodedImages(Dataset[StoredImage | str]):
    """Images as they are stored, each decoded once as a check; a broken one is a line with the reason.

    Files keep their bytes. Other images become PNG, which keeps their pixels.
    """

    def __init__(self, images: LabelledImages, *, split: str) -> None:
        self.images = images
        self.split = split

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> StoredImage | str:
        try:
            image, label = self.images[index]
            if isinstance(self.images, StreamedImages):
                return self.images.stored(index)
            if isinstance(self.images, FileImages):
                path = Path(self.images.paths[index])
                return StoredImage(path.read_bytes(), int(label), utf8_name("/".join(path.parts[-2:])))
        except UnreadableImage as error:
            return str(error)
        return StoredImage(png(image), int(label), f"{self.split}/{index}")


def png(image: Image.Image | torch.Tensor) -> bytes:
    """The image in PNG.

    Raises:
        ValueError: its pixels are floats.
    """
    if isinstance(image, torch.Tensor):
        if image.dtype != torch.uint8:
            raise ValueError(f"Images of {image.dtype} cannot be written: files hold whole numbers from 0 to 255.")
        image = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def refuse_filled(output: Path) -> None:
    """Raises ValueError if there is something at `output` already, other than an empty folder."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"output={output}: is there already, and not empty. Name a folder that is not.")


def _refuse_empty_classes(folder: Path, splits: Mapping[str, SplitEntry], classes: Sequence[str]) -> None:
    if "train" not in splits:
        raise ValueError("There are no training images to write.")
    content = (folder / "train" / LABELS).read_bytes()
    present = set(parse_labels(content, splits["train"], where=LABELS))
    if empty := [name for label, name in enumerate(classes) if label not in present]:
        raise ValueError(f"No training image is left of {', '.join(map(repr, empty))}; nothing was written.")
