"""A folder of images: one folder per class, with or without train, val and test folders above them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from frostline.data.decoded_cache import decoded_cache
from frostline.data.decoding import MAX_PIXELS
from frostline.data.file_splits import OneCopy, name_notes, usable_splits
from frostline.data.files import FileImages, LabelledFile
from frostline.data.folders import (
    ELSEWHERE,
    LOOSE,
    LeftOut,
    Walk,
    composed,
    folder_of_classes,
    folders_in,
    identity,
    split_folders,
)
from frostline.data.image_file import EXTENSIONS
from frostline.data.source import LabelledImages


class ImageFolder:
    """Images at `path/class/…` or `path/train|val|test/class/…`; class names are the folder names, sorted.

    `left_out` counts what lies there and is not used; `notes` are sentences about it.

    Args:
        path: the folder. Split folders may have other usual names: see `frostline.data.folders.SPLIT_WORDS`.
        val_fraction: of each class's training images, where there is no val folder.
        test_fraction: of each class's images, where there are no train, val and test folders.
        rare_classes: `raise`, or `train` to keep a class that is too small to split in train.
        on_bad_image: `skip` to decode every image once, here, and leave out those that cannot be read; with `raise`,
            `ImageDataModule.check_images` names them.
        max_pixels: larger images are errors, before they are decoded.
        scaled_decoding: decode JPEGs of several megapixels at reduced size where that is enough.
        packed: folder in which decoded images are kept for later epochs and runs; None for none.
        packed_limit: GiB that it may take.
        whole_as: for an evaluation: the split that all images belong to where there are no split folders; train is not
            needed.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders or only one; no images; a class without images, unknown in train, or too small to
            split; one file in two classes or splits.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str],
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        rare_classes: str = "raise",
        on_bad_image: str = "raise",
        max_pixels: int = MAX_PIXELS,
        scaled_decoding: bool = True,
        packed: str | os.PathLike[str] | None = None,
        packed_limit: float = 50.0,
        whole_as: str | None = None,
    ) -> None:
        root = Path(path).expanduser()
        if not root.is_dir():
            hint = " It is a file: data=csv reads tables." if root.is_file() else ""
            raise FileNotFoundError(f"path={root}: no such folder.{hint}")
        self.left_out = LeftOut()
        self._walk = Walk(self.left_out, tolerant=on_bad_image == "skip")
        splits, beside = split_folders(root)
        if splits and "train" not in splits and whole_as not in splits:
            raise ValueError(
                f"{root} has {', '.join(folder.name for folder in splits.values())} but no train folder. "
                "Layouts: path/train|val|test/class/image, or path/class/image."
            )
        for folder in beside if splits else ():
            self.left_out.add(ELSEWHERE, folder)
        if splits:
            self._loose_images(root)
        wanted = splits or {whole_as or "all": root}
        above = [own for folder in (root, *splits.values()) if (own := identity(folder))]
        found = {split: self._class_folders(folder, above) for split, folder in wanted.items()}
        named = "train" if "train" in found else next(iter(found))
        self._classes = sorted(found[named])
        if len(self._classes) == 1 and whole_as is None:
            _refuse_one_class(root, wanted[named], found[named])
        self.notes = [*name_notes(self._classes), *_notes_on_folders_inside(found[named])]
        self.notes += _refuse_other_classes(found, self._classes, named)
        files = self._files(found, above)
        self.max_pixels = max_pixels
        self.scaled_decoding = scaled_decoding
        self.cache = decoded_cache(packed, limit=packed_limit)
        self._splits, notes = usable_splits(
            files,
            on_bad_image=on_bad_image,
            max_pixels=max_pixels,
            left_out=self.left_out,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=split_seed,
            classes=self._classes,
            rare_classes=rare_classes,
        )
        self.notes += notes

    @property
    def classes(self) -> Sequence[str]:
        return self._classes

    def dataset(self, split: str) -> LabelledImages | None:
        files = self._splits.get(split)
        if not files:
            return None
        return FileImages(files, max_pixels=self.max_pixels, scaled_decoding=self.scaled_decoding, cache=self.cache)

    def _class_folders(self, folder: Path, above: Sequence[tuple[int, int]]) -> dict[str, list[Path]]:
        """Class name, composed -> its folders: several where the forms of a name are mixed."""
        found: dict[str, list[Path]] = {}
        for child in folders_in(folder, self._walk, above=above):
            found.setdefault(composed(child.name), []).append(child)
        loose = self._loose_images(folder)
        if not found:
            hint = " Images lie in it directly; put each class's images in a folder of their own." if loose else ""
            raise ValueError(f"{folder}: no class folders in it.{hint}")
        return found

    def _loose_images(self, folder: Path) -> int:
        """How many images lie directly in a folder, where none is used."""
        silent = Walk(LeftOut(), tolerant=True)
        loose = [
            entry.path
            for entry in silent.entries(folder)
            if not entry.is_dir() and silent.image(entry.path) is not None
        ]
        for path in loose:
            self.left_out.add(LOOSE, path)
        return len(loose)

    def _files(
        self, found: Mapping[str, Mapping[str, Sequence[Path]]], above: Sequence[tuple[int, int]]
    ) -> dict[str, list[LabelledFile]]:
        copies = OneCopy(self.left_out)
        numbering = {name: number for number, name in enumerate(self._classes)}
        files: dict[str, list[LabelledFile]] = {}
        for split, folders in found.items():
            files[split] = []
            for name in sorted(folders):
                empty = True
                for folder in folders[name]:
                    for path, own in self._walk.images(folder, above=above):
                        empty = False
                        if copies.is_first(path, own, label=name, split=split):
                            files[split].append(LabelledFile(str(path), numbering[name]))
                if empty:
                    raise ValueError(_empty(folders[name][0]))
        copies.check()
        return files


def _empty(folder: Path) -> str:
    others = sorted({path.suffix for path in folder.iterdir() if path.is_file()})
    seen = f" It holds {', '.join(ending or 'files without ending' for ending in others)}." if others else ""
    return (
        f"{folder}: no images in this class folder.{seen} "
        f"Images end in {', '.join(sorted(EXTENSIONS))} (upper or lower case), or have the content of one."
    )


def _refuse_one_class(root: Path, folder: Path, found: Mapping[str, Sequence[Path]]) -> None:
    """Raises ValueError that says where the class folders are, if they lie deeper."""
    [name] = found
    inner = folder_of_classes(found[name][0])
    message = f"{folder}: only one class folder, {name!r}; a classifier needs two or more classes."
    if inner is not None:
        listed = ", ".join(child.name for child in folders_in(inner, Walk(LeftOut(), tolerant=True))[:4])
        way = f"type path={inner}" if folder == root else f"move what {inner} holds into {folder}"
        message += f" If the folders in {inner} ({listed}, …) are the classes: {way}"
    raise ValueError(message)


def _notes_on_folders_inside(found: Mapping[str, Sequence[Path]]) -> list[str]:
    """A sentence where all class folders hold the same folders, which may then be the classes."""
    walk = Walk(LeftOut(), tolerant=True)
    common: list[str] | None = None
    for folder in (folder for folders in found.values() for folder in folders):
        names = [child.name for child in folders_in(folder, walk)]
        if len(names) < 2 or common not in (None, names):
            return []
        common = names
    return [
        f"WARNING: all class folders ({', '.join(list(found)[:3])}, …) hold the same folders "
        f"({', '.join((common or [])[:3])}, …), whose images count as theirs. If these are the classes: the folders of "
        "splits are called train, val and test"
    ]


def _refuse_other_classes(
    found: Mapping[str, Mapping[str, Sequence[Path]]], classes: Sequence[str], named: str
) -> list[str]:
    """Raises ValueError for the classes that `named` lacks; sentences about those that other splits lack."""
    unknown = [
        f"{folders[0]}: class {name!r} of {split}"
        for split, of_split in found.items()
        for name, folders in of_split.items()
        if name not in classes
    ]
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        raise ValueError(f"{'; '.join(unknown)} {verb} not among the classes of {named} ({', '.join(classes)}).")
    lacking = {split: [name for name in classes if name not in of_split] for split, of_split in found.items()}
    return [f"WARNING: {split} has no images of {', '.join(names)}" for split, names in lacking.items() if names]
