"""The image files in folders, each once, with a count of what else lies there; which folders are splits."""

import mimetypes
import os
import re
import stat
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from frostline.data.image_file import EXTENSIONS, FORMATS
from frostline.storage.names import first_of

Identity = tuple[int, int]  # device and inode: one for all names of a file

HIDDEN, LOOSE, ELSEWHERE = "hidden or a system's", "images in no class folder", "folders beside the split folders"
AGAIN = "the same file or folder under another name"
UNREADABLE, BROKEN = "folders that cannot be read", "images that cannot be read"
BY_CONTENT = "images under other endings"  # used, and counted all the same
EXAMPLES = 3
MOST_LISTED, MOST_BROKEN = 10, 1000  # problems, and broken images, that one message names

# How the images of a split are called: by one of these words, alone or with the affixes.
SPLIT_WORDS: Mapping[str, Collection[str]] = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}
AFFIXES = frozenset(
    (
        *("", "set", "sets", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "pics"),
        *("split", "folder", "folders", "dir", "files", "samples", "subset", "part", "ds", "class", "classes"),
    )
)
# Folders that systems and programs leave in others, with copies of the images or none.
OF_SYSTEMS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"})
TYPES = mimetypes.MimeTypes().types_map[True]  # of the endings of texts, films and the like, which are not opened
# What may begin a file that Pillow reads; whether it is one, Pillow decides.
BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
)


class LeftOut:
    """Files and folders that are not used, by reason."""

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = {}

    def add(self, reason: str, path: str | os.PathLike[str]) -> None:
        self.paths.setdefault(reason, []).append(str(path))

    @property
    def counts(self) -> dict[str, int]:
        """How many, by reason."""
        return {reason: len(paths) for reason, paths in self.paths.items()}

    def lines(self) -> list[str]:
        """What is left out, and what is used under other endings: up to one line each. Broken images have notes of
        their own."""
        parts = [self._shown(reason) for reason in self.paths if reason not in (BY_CONTENT, BROKEN)]
        lines = [f"left out: {'; '.join(parts)}"] if parts else []
        return [*lines, f"used by their content: {self._shown(BY_CONTENT)}"] if BY_CONTENT in self.paths else lines

    def _shown(self, reason: str) -> str:
        paths = self.paths[reason]
        return f"{len(paths):,} {reason} ({first_of(paths, most=EXAMPLES)})"


class Walk:
    """Image files in folders. A folder is walked once a call of `images`, whatever links lead to it.

    Args:
        left_out: gets what is no image.
        tolerant: count a folder that cannot be read, where it is otherwise an error.
    """

    def __init__(self, left_out: LeftOut, *, tolerant: bool = False) -> None:
        self.left_out = left_out
        self.tolerant = tolerant

    def images(self, folder: Path, *, above: Collection[Identity] = ()) -> Iterator[tuple[Path, Identity | None]]:
        """Image files in a folder and the folders in it, sorted, with the identity of each: None for a broken link.

        Hidden files and folders are passed over. Files without ending, or with one that stands for nothing else, are
        used where their content is an image.

        Args:
            above: folders that are not to be walked: those that hold this one.

        Raises:
            ValueError: a folder cannot be read.
        """
        seen, waiting = set(above), [str(folder)]
        while waiting:
            parent = waiting.pop()
            own = identity(parent)
            if own in seen:
                self.left_out.add(AGAIN, parent)
                continue
            if own is not None:
                seen.add(own)
            folders = []
            for entry in self.entries(parent):
                if entry.is_dir():
                    folders.append(entry.path)
                elif (found := self.image(entry.path)) is not None:
                    yield found
            waiting += reversed(folders)

    def entries(self, folder: str | os.PathLike[str]) -> list["os.DirEntry[str]"]:
        """What lies in a folder, sorted, without the hidden and the folders of systems.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            with os.scandir(folder) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except OSError as error:
            if not self.tolerant:
                raise ValueError(f"{os.fspath(folder)}: this folder cannot be read ({error.strerror}).") from error
            self.left_out.add(UNREADABLE, folder)
            return []
        seen = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in OF_SYSTEMS:
                self.left_out.add(HIDDEN, entry.path)
            else:
                seen.append(entry)
        return seen

    def image(self, path: str) -> tuple[Path, Identity | None] | None:
        """The file and its identity if it is an image, or has an image's ending; else None, and it is counted."""
        ending = os.path.splitext(path)[1].lower()  # noqa: PTH122 - a Path for each file doubles the time
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            # A broken link. Under an image's name it is a broken image, which the check of images reports.
            if ending in EXTENSIONS:
                return Path(path), None
            self.left_out.add("links to nothing", path)
            return None
        if not stat.S_ISREG(status.st_mode):
            self.left_out.add("devices, pipes and sockets", path)
            return None
        if ending not in EXTENSIONS:
            if not TYPES.get(ending, "image/").startswith("image/") or not is_image(path):
                self.left_out.add(_kind(ending), path)
                return None
            self.left_out.add(BY_CONTENT, path)
        return Path(path), _identity(status)


def _kind(ending: str) -> str:
    if ending in (".heic", ".heif"):
        return f"{ending} files, which Pillow does not read: convert them to JPEG"
    return f"{ending} files" if ending else "files without ending that are no images"


def is_image(path: str) -> bool:
    """Whether Pillow takes a file for an image of the formats that are read, from its header."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(12)
        if not head.startswith(BEGINNINGS) and head[4:8] != b"ftyp":
            return False
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # Pillow's plugins raise nearly anything
        return False


def identity(path: str | os.PathLike[str]) -> Identity | None:
    """Device and inode, or None of what is not there, cannot be asked or has no inode."""
    try:
        return _identity(os.stat(path))  # noqa: PTH116
    except OSError:
        return None


def _identity(status: os.stat_result) -> Identity | None:
    return (status.st_dev, status.st_ino) if status.st_ino else None


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes é as two characters, and others as one."""
    return unicodedata.normalize("NFC", name)


def split_of(name: str) -> str | None:
    """The split that a folder's or a column's word names: `Training`, `train_set`, `valid`, `dev`, …; else None."""
    split, rest = _split_and_rest(name)
    return None if rest else split


def _split_and_rest(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The one split that a name's words contain, and its words that are neither that, nor an affix, nor a number."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W\d_]+", re.sub(r"\b(hold|held)[ _-]out\b", r"\1out", apart.lower().replace("_", " ")))
    splits, rest = [], []
    for word in words:
        found = next((split for split, names in SPLIT_WORDS.items() if _means(word, names)), None)
        if found:
            splits.append(found)
        elif word not in AFFIXES:
            rest.append(word)
    return (splits[0] if len(splits) == 1 else None), tuple(rest)


def _means(word: str, names: Collection[str]) -> bool:
    return any(word.startswith(name) and word[len(name) :] in AFFIXES for name in names)


def folders_in(folder: Path, walk: Walk, *, above: Collection[Identity] = ()) -> list[Path]:
    """The folders in a folder, sorted, without the hidden and without links to those above."""
    folders = []
    for entry in walk.entries(folder):
        if not entry.is_dir():
            continue
        if identity(entry.path) in above:
            walk.left_out.add(AGAIN, entry.path)
        else:
            folders.append(Path(entry.path))
    return folders


def split_folders(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """split -> its folder, and the folders beside these; empty where `root` holds the class folders itself.

    A folder that is named like a split (`split_of`), or that differs from another in that word alone (`seg_train`,
    `seg_test`), holds one. A single such name among others, of a folder without folders, is a class: trains exist.

    Raises:
        ValueError: two folders for one split, or split folders inside the class folders.
    """
    silent = Walk(LeftOut(), tolerant=True)
    children = folders_in(root, silent, above={own} if (own := identity(root)) else ())
    named = {child: _split_and_rest(composed(child.name)) for child in children}
    stems = {rest for split, rest in named.values() if split}
    groups = {stem: [child for child, (split, rest) in named.items() if split and rest == stem] for stem in stems}
    found: list[Path] = groups.get((), [])
    if not found:
        found = next((group for group in groups.values() if len({named[child][0] for child in group}) > 1), [])
    if len(found) == 1 and len(children) > 1 and not folders_in(found[0], silent):
        found = []
    splits: dict[str, Path] = {}
    for child in found:
        split = str(named[child][0])
        if split in splits:
            raise ValueError(f"{root}: {splits[split].name} and {child.name} both mean {split}; keep one.")
        splits[split] = child
    if not found and len(children) > 1:
        _refuse_splits_inside(root, children, silent)
    return {split: splits[split] for split in SPLIT_WORDS if split in splits}, [
        child for child in children if child not in found
    ]


def _refuse_splits_inside(root: Path, children: Sequence[Path], walk: Walk) -> None:
    for child in children:
        inner = folders_in(child, walk)
        if not inner or not all(split_of(folder.name) for folder in inner):
            return  # at the first class folder, as a rule: reading all of them takes as long as the walk itself
    raise ValueError(
        f"{root}: the folders {inner[0].name}, … lie in the class folders ({child.name}/{inner[0].name}, …), and "
        f"would be taken for parts of the classes. Move them above: {root / inner[0].name / child.name}."
    )


def folder_of_classes(folder: Path) -> Path | None:
    """Where a folder holds only wrappers around class folders or split folders: the innermost wrapper."""
    walk = Walk(LeftOut(), tolerant=True)
    seen: set[Identity | None] = set()
    while identity(folder) not in seen:
        seen.add(identity(folder))
        inside = folders_in(folder, walk)
        if len(inside) > 1:
            return folder
        if not inside:
            return None
        folder = inside[0]
    return None


def listed(problems: Sequence[str], what: str, *, most: int = MOST_LISTED) -> str:
    """One message for several problems: the first `most`, and how many there are."""
    if len(problems) == 1:
        return problems[0]
    more = [f"  … and {len(problems) - most:,} more"] if len(problems) > most else []
    return "\n".join([f"{len(problems):,} {what}:", *(f"  {each}" for each in problems[:most]), *more])
