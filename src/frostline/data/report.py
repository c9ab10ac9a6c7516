"""A report on a run's images before training: counts, sizes, how they were split, and what looks wrong."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from frostline.data.datamodule import ImageDataModule
from frostline.data.decoding import PILLOWS_LIMIT, decoded_size
from frostline.data.image_file import UnreadableImage
from frostline.data.source import SPLITS
from frostline.storage.atomic import write_text
from frostline.storage.checksums import checksum
from frostline.storage.names import first_of

FEW_IN_CLASS = 10  # training images; of fewer, a warning
MOST_FILES = 10_000  # that are looked at unasked: 0.2 ms each for the header
BEGINNING = 4096  # bytes that are compared before whole files

Size = tuple[int, int]


class ImageFile(NamedTuple):
    """A file of a split; its class is None where labels are soft."""

    path: str
    split: str
    of_class: str | None

    def __str__(self) -> str:
        return f"{self.path} ({self.split}{'' if self.of_class is None else f', {self.of_class}'})"


class DataReport:
    """What is known of the images of a source without decoding them.

    Sizes, from the headers, and exact copies are found where the images of the splits have `paths`. A source says in
    its `split_note` how it was split.

    Args:
        most_files: of more files neither is looked for; None for no limit.

    Attributes:
        lines: the report for a screen.
        content: the complete report as plain values: images of each class and split, sizes by the shorter side, every
            file passed over, every group of copies.
    """

    def __init__(self, data: ImageDataModule, *, most_files: int | None = MOST_FILES) -> None:
        counts, files, source = _counts(data), list(_files(data)), type(data.source).__name__
        self.lines = [counts_line(data), f"split: {getattr(data.source, 'split_note', f'as {source} gives it')}"]
        self.lines += _class_lines(counts)
        self.content: dict[str, Any] = {"summary": self.lines, "classes": counts}
        copies: list[list[ImageFile]] = []
        if files and (most_files is None or len(files) <= most_files):
            sizes, copies = dict(_sizes(files)), duplicates(files)
            self.lines += _size_lines(sizes.values())
            self.content["sizes"] = _by_shorter_side(sizes)
            self.content["duplicates"] = [[str(file) for file in group] for group in copies]
        else:
            reason = f"`frostline show` looks at all {len(files):,} files" if files else f"{source} lists no files"
            self.lines.append(f"image sizes and exact duplicates: not looked for ({reason})")
        self.lines += [*data.notes, *_tiny(counts), *_copies_lines(copies)]
        left_out = getattr(data.source, "left_out", None)
        self.content["passed_over"] = {} if left_out is None else left_out.paths

    def write(self, path: Path) -> None:
        """Write the complete report as JSON."""
        write_text(path, json.dumps(self.content, indent=2) + "\n")


def counts_line(data: ImageDataModule) -> str:
    """The images of each split, the number of classes, and the size that the network sees."""
    splits = {split: data.images(split) for split in SPLITS}
    counts = ", ".join(f"{len(images):,} {split}" for split, images in splits.items() if images is not None)
    return f"data: {counts} images of {len(data.classes)} classes, {data.image_size} px"


def duplicates(files: Sequence[ImageFile]) -> list[list[ImageFile]]:
    """Groups of files with the same bytes; a file that cannot be read is in none.

    Only files of equal length are read, and of these as a rule the beginning alone.
    """
    groups = [list(files)]
    keys: tuple[Callable[[Path], Hashable], ...] = (_length, _beginning, _content)
    for key in keys:
        groups = [alike for group in groups for alike in _alike(group, key)]
    return groups


def _alike(files: Iterable[ImageFile], key: Callable[[Path], Hashable]) -> list[list[ImageFile]]:
    found: dict[Hashable, list[ImageFile]] = defaultdict(list)
    for file in files:
        with suppress(OSError):
            found[key(Path(file.path))].append(file)
    return [alike for alike in found.values() if len(alike) > 1]


def _length(path: Path) -> int:
    return path.stat().st_size


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BEGINNING)


def _content(path: Path) -> bytes:
    return checksum(path.read_bytes())


def _counts(data: ImageDataModule) -> dict[str, dict[str, int]] | None:
    """Class -> split -> images; None where labels are soft."""
    splits = {split: images for split in SPLITS if (images := data.images(split)) is not None}
    found = {split: None if images.labels is None else Counter(images.labels) for split, images in splits.items()}
    if None in found.values():
        return None
    return {
        name: {split: labels[place] for split, labels in found.items() if labels is not None}
        for place, name in enumerate(data.classes)
    }


def _files(data: ImageDataModule) -> Iterator[ImageFile]:
    for split in SPLITS:
        images: Any = data.images(split)
        labels = None if images is None else images.labels
        for place, path in enumerate(getattr(images, "paths", None) or ()):
            yield ImageFile(str(path), split, None if labels is None else data.classes[labels[place]])


def _sizes(files: Iterable[ImageFile]) -> Iterator[tuple[ImageFile, Size]]:
    for file in files:
        with suppress(UnreadableImage):  # an error when the image is read
            yield file, decoded_size(file.path, max_pixels=PILLOWS_LIMIT)


def _by_shorter_side(sizes: Mapping[ImageFile, Size]) -> dict[str, dict[str, int]]:
    """`32 to 63 px` -> split -> images."""
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for file, size in sizes.items():
        found[min(size).bit_length() - 1][file.split] += 1
    return {f"{2**power} to {2 ** (power + 1) - 1} px": dict(found[power]) for power in sorted(found)}


def _class_lines(counts: Mapping[str, Mapping[str, int]] | None) -> Iterator[str]:
    if counts is None:
        yield "images per class: not counted, as labels are soft"
        return
    train = {name: splits["train"] for name, splits in counts.items() if "train" in splits}
    if train:
        least, most = min(train, key=train.__getitem__), max(train, key=train.__getitem__)
        same = train[least] == train[most]
        yield "training images per class: " + (
            f"{train[least]:,}" if same else f"{train[least]:,} ({least}) to {train[most]:,} ({most})"
        )


def _size_lines(sizes: Iterable[Size]) -> Iterator[str]:
    ordered = sorted(set(sizes), key=lambda size: (min(size), size))
    if ordered:
        first, last = ("×".join(map(str, ordered[place])) for place in (0, -1))
        yield f"image sizes: {first}{'' if first == last else f' to {last}'} px, width × height"


def _tiny(counts: Mapping[str, Mapping[str, int]] | None) -> Iterator[str]:
    train = {name: splits.get("train", 0) for name, splits in (counts or {}).items()}
    few = [f"{name} ({count})" for name, count in train.items() if 0 < count < FEW_IN_CLASS]
    if few:
        yield (
            f"WARNING: fewer than {FEW_IN_CLASS} training images: {first_of(few)}. "
            "Add images, or leave such classes out"
        )


def _copies_lines(groups: Sequence[Sequence[ImageFile]]) -> Iterator[str]:
    for what, harm, apart in (
        ("splits", "results look better than they are", lambda file: file.split),
        ("classes", "one label of each is wrong", lambda file: file.of_class),
    ):
        found = [group for group in groups if len({apart(file) for file in group}) > 1]
        if found:
            verb = "images lie" if len(found) > 1 else "image lies"
            yield (
                f"WARNING: {len(found):,} {verb} in two or more {what}, so that {harm}: "
                f"{first_of([' = '.join(map(str, group)) for group in found], most=3)}. Remove the copies"
            )
