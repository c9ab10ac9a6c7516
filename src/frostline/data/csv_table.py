"""A CSV file that lists images: columns `path`, `label` and, if wanted, `split`."""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from frostline.data.file_source import FileSource, FoundFiles, OneCopy
from frostline.data.files import LabelledFile
from frostline.data.folders import Identity, composed, identity, listed, split_of
from frostline.data.source import SPLITS
from frostline.storage.names import first_of

COLUMNS = ("path", "label")
SEPARATORS = (",", ";", "\t", "|")
# A byte-order mark says which Unicode encoding it is. utf-32 first: its mark begins like utf-16's.
MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}


class Row(NamedTuple):
    """One line of the file."""

    line: int
    path: Path
    label: str
    split: str
    identity: Identity | None


class CsvTable(FileSource):
    """Images listed in a CSV file; relative paths start at the file's folder. Arguments: `FileSource`'s.

    Classes are the labels in the file, sorted (as numbers where all are whole numbers). Without a `split` column the
    images are divided by a seeded stratified split; with one that names no `val`, val is taken from train. The file is
    in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark; columns are separated by commas, semicolons, tabs or `|`.
    A row that repeats another is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the file and the lines of: another encoding, a missing column or value, an unknown split,
            images that do not exist (unless they are skipped) or are listed under two labels or splits, a class of val
            or test that train lacks; there is only one class.
    """

    def _found(self, table: Path, *, tolerant: bool, whole_as: str | None) -> FoundFiles:
        if not table.is_file():
            hint = " It is a folder: data=image_folder reads those." if table.is_dir() else ""
            raise FileNotFoundError(f"path={table}: no such file.{hint}")
        rows = _rows(table, undivided=whole_as or "all", missing_too=tolerant)
        if not rows:
            raise ValueError(f"{table}: no images are listed in it.")
        trained = {row.label for row in rows if row.split in ("train", "all")}
        if not trained and whole_as is None:
            raise ValueError(f"{table}: no line has split=train.")
        trained = trained or {row.label for row in rows}
        unknown = [
            f"{table}:{row.line}: class {row.label!r} of {row.split} has no training image."
            for row in rows
            if row.label not in trained
        ]
        if unknown:
            raise ValueError(listed(unknown, f"lines of {table} have a class without training images"))
        numbers = all(label.isdecimal() for label in trained)
        classes = sorted(trained, key=lambda label: (int(label) if numbers else 0, label))
        if len(classes) == 1 and whole_as is None:
            raise ValueError(f"{table}: only one class, {classes[0]!r}; a classifier needs two or more classes.")
        numbering = {label: number for number, label in enumerate(classes)}
        copies = OneCopy(self.left_out)
        files: dict[str, list[LabelledFile]] = {}
        for row in rows:
            where = f"{table}:{row.line} ({row.path})"
            if copies.is_first(row.path, row.identity, label=row.label, split=row.split, where=where):
                files.setdefault(row.split, []).append(LabelledFile(str(row.path), numbering[row.label]))
        copies.check()
        return FoundFiles(classes, files, label_notes(classes))


def _text(table: Path) -> str:
    content = table.read_bytes()
    if content.startswith(b"PK"):
        raise ValueError(f"{table}: this is a workbook or another ZIP file. Save the sheet as CSV (UTF-8).")
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    if b"\0" in content and encoding == "utf-8":
        raise ValueError(
            f"{table}: contains NUL bytes: no text, or UTF-16 without a byte-order mark. Save it as CSV UTF-8."
        )
    if content.startswith(b"\x1f\x8b"):
        raise ValueError(f"{table}: is compressed (gzip): unpack it.")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{table}:{line}: is not in {encoding.upper()} (byte 0x{content[error.start]:02x}). Save it as CSV UTF-8, "
            f"or convert it: iconv -f CP1252 -t UTF-8 {table.name} > {table.stem}-utf8.csv (CP1252 is Windows' "
            "encoding in western Europe)."
        ) from error
    return text


def _reader(table: Path) -> "csv.DictReader[str]":
    """The rows under their columns' names, which may be written in any case and with spaces around."""
    text = _text(table)
    found: list[str] = []
    for separator in SEPARATORS:
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=separator)
        names = [name.strip().lower() for name in reader.fieldnames or []]
        if set(COLUMNS) <= set(names):
            if len(set(names)) < len(names):
                raise ValueError(f"{table}:1: a column's name appears twice: {', '.join(names)}.")
            reader.fieldnames = names
            return reader
        if len(names) > len(found):
            found = [name.strip() for name in reader.fieldnames or []]
    lacking = next((column for column in COLUMNS if column not in [name.lower() for name in found]), COLUMNS[0])
    raise ValueError(
        f"{table}:1: no column {lacking!r}; the columns are {', '.join(found) or 'none'}. The first line names the "
        "columns: path,label or path,label,split."
    )


def _rows(table: Path, *, undivided: str, missing_too: bool) -> list[Row]:
    """The rows of the table.

    Args:
        undivided: the split of rows in a table without splits.
        missing_too: with rows whose images are not there, which are broken images then.

    Raises:
        ValueError: names all lines that are wrong.
    """
    reader = _reader(table)
    rows, problems = [], []
    columns = list(reader.fieldnames or [])
    try:
        for cells in reader:
            further = cells.pop(None, ())
            if not any((*cells.values(), *further)):
                continue  # spreadsheets end tables with rows of separators, and rows with separators
            if any(further):
                problems.append(
                    f"{table}:{reader.line_num}: more values than columns; a value with the separator in it stands in "
                    "quotes."
                )
                continue
            row = _row(cells, table, reader.line_num, columns, undivided=undivided, missing_too=missing_too)
            if isinstance(row, Row):
                rows.append(row)
            else:
                problems.append(row)
    except csv.Error as error:
        raise ValueError(f"{table}:{reader.line_num}: {error}. Is a quotation mark left open before it?") from error
    if problems:
        raise ValueError(listed(problems, f"lines of {table} cannot be used"))
    return rows


def _row(
    cells: dict[str, str], table: Path, line: int, columns: Sequence[str], *, undivided: str, missing_too: bool
) -> Row | str:
    """The row, or what is wrong with it."""
    where = f"{table}:{line}"
    read = [cells[column] or "" for column in ("path", "label", "split") if column in columns]
    if over := next((value for value in read if len(value.strip().splitlines()) > 1), None):
        return f"{where}: a value goes over several lines ({over[:40]!r}…). Is a quotation mark left open before it?"
    label = composed((cells["label"] or "").strip())
    if not cells["path"] or not label:
        return f"{where}: path or label is empty."
    split: str | None = undivided
    if "split" in columns:
        word = (cells["split"] or "").strip()
        if (split := split_of(word)) is None:
            return f"{where}: split {word!r} is none of {', '.join(SPLITS)}."
    for path in _spellings(cells["path"], table.parent):
        with suppress(ValueError, OSError):  # a NUL in the name; a name too long, a folder that is closed to us
            if path.is_file():
                return Row(line, path, label, str(split), identity(path))
    if "://" in cells["path"]:
        return f"{where}: {cells['path']!r} is an address, and images are read from files: download it."
    missing = table.parent / Path(cells["path"]).expanduser()
    return Row(line, missing, label, str(split), None) if missing_too else f"{where}: no such image: {missing}."


def _spellings(name: str, folder: Path) -> Iterator[Path]:
    """The path as it is written, without spaces around it, in the other forms of Unicode, and written by Windows."""
    yield folder / Path(name).expanduser()
    yield folder / Path(name.strip()).expanduser()
    for form in ("NFC", "NFD"):
        yield folder / Path(unicodedata.normalize(form, name)).expanduser()
    yield folder / name.replace("\\", "/")


def label_notes(classes: Sequence[str]) -> list[str]:
    """A sentence about labels that are numbers or lists, which may be meant for another kind of task."""
    shown = first_of(classes, most=3)
    if all(_is_number(label) for label in classes):
        return [f"labels are numbers: each of the {len(classes):,} different values ({shown}) is a class of its own"]
    lists = [label for label in classes if label[0] in "[{(" or any(mark in label for mark in ",;|")]
    if lists:
        return [
            f"WARNING: {len(lists):,} of {len(classes):,} labels look like lists ({', '.join(lists[:3])}): each "
            "different text is a class of its own, and an image has one class"
        ]
    return []


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True
