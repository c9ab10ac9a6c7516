"""A CSV file that lists images: columns `path`, `label` and, if wanted, `split`."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from frostline.data.decoding import MAX_PIXELS
from frostline.data.files import FileImages, LabelledFile, divide
from frostline.data.image_folder import SPLIT_FOLDERS
from frostline.data.packed import packing
from frostline.data.source import LabelledImages


class Row(NamedTuple):
    """One line of the file."""

    line: int
    path: Path
    label: str
    split: str


class CsvTable:
    """Images listed in a CSV file; relative paths start at the file's folder. Further keys: `ImageFolder`'s.

    Classes are the labels in the file, sorted (as numbers where all are whole numbers). Without a `split` column the
    images are divided by a seeded stratified split; with one that names no `val`, val is taken from train.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the file and line of: a missing column or value, an unknown split, an image that does not
            exist or is listed under two labels or splits, a class of val or test that train lacks.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str],
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        scaled_decoding: bool = True,
        packed: str | os.PathLike[str] | None = None,
        packed_limit: float = 50.0,
    ) -> None:
        table = Path(path).expanduser()
        if not table.is_file():
            raise FileNotFoundError(f"data.path={table}: no such file.")
        rows = list(_rows(table))
        if not rows:
            raise ValueError(f"{table}: no images are listed in it.")
        trained = {row.label for row in rows if row.split in ("train", "all")}
        if not trained:
            raise ValueError(f"{table}: no line has split=train.")
        for row in rows:
            if row.label not in trained:
                raise ValueError(f"{table}:{row.line}: class {row.label!r} of {row.split} has no training image.")
        numbers = all(label.isdecimal() for label in trained)
        self._classes = sorted(trained, key=lambda label: (int(label) if numbers else 0, label))
        numbering = {label: number for number, label in enumerate(self._classes)}
        files: dict[str, list[LabelledFile]] = {}
        for row in rows:
            files.setdefault(row.split, []).append(LabelledFile(str(row.path), numbering[row.label]))
        self.max_pixels = max_pixels
        self.scaled_decoding = scaled_decoding
        self.packing = packing(packed, limit=packed_limit)
        self._splits = divide(
            files, val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed, classes=self._classes
        )

    @property
    def classes(self) -> Sequence[str]:
        return self._classes

    def dataset(self, split: str) -> LabelledImages | None:
        files = self._splits.get(split)
        if not files:
            return None
        return FileImages(files, max_pixels=self.max_pixels, scaled_decoding=self.scaled_decoding, packing=self.packing)


def _rows(table: Path) -> Iterator[Row]:
    meanings = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    seen: dict[Path, Row] = {}
    # utf-8-sig: spreadsheets write a byte-order mark, which would become part of the first column's name.
    with table.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True)
        columns = reader.fieldnames or []
        for column in ("path", "label"):
            if column not in columns:
                raise ValueError(f"{table}:1: no column {column!r}; the columns are {', '.join(columns) or 'none'}.")
        for cells in reader:
            where = f"{table}:{reader.line_num}"
            if not cells["path"] or not cells["label"]:
                raise ValueError(f"{where}: path or label is empty.")
            split = "all"
            if "split" in columns:
                word = cells["split"] or ""
                if word not in meanings:
                    raise ValueError(f"{where}: split {word!r} is none of {', '.join(meanings)}.")
                split = meanings[word]
            path = table.parent / Path(cells["path"]).expanduser()
            row = Row(reader.line_num, path, cells["label"].strip(), split)
            if not path.is_file():
                raise ValueError(f"{where}: no such image: {path}.")
            before = seen.setdefault(path, row)
            if (before.label, before.split) != (row.label, row.split):
                raise ValueError(
                    f"{where}: {cells['path']} is {row.label!r} in {row.split}, but line {before.line} has it as "
                    f"{before.label!r} in {before.split}."
                )
            yield row
