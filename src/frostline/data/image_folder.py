"""A folder of images: one folder per class, with or without train, val and test folders above them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from frostline.data.file_source import FileSource, FoundFiles, OneCopy
from frostline.data.files import LabelledFile
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


class ImageFolder(FileSource):
    """Images at `path/class/…` or `path/train|val|test/class/…`; class names are the folder names, sorted.

    Split folders may have other usual names: see `frostline.data.folders.SPLIT_WORDS`. Arguments: `FileSource`'s.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders or only one; no images; a class without images, unknown in train, or too small to
            split; one file in two classes or splits.
    """

    def _found(self, root: Path, *, tolerant: bool, whole_as: str | None) -> FoundFiles:
        if not root.is_dir():
            hint = " It is a file: data=csv reads tables." if root.is_file() else ""
            raise FileNotFoundError(f"path={root}: no such folder.{hint}")
        self._walk = Walk(self.left_out, tolerant=tolerant)
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
        classes = sorted(found[named])
        if len(classes) == 1 and whole_as is None:
            _refuse_one_class(root, wanted[named], found[named])
        _refuse_other_classes(found, classes, named)
        return FoundFiles(classes, self._files(found, classes, above), _notes_on_folders_inside(found[named]))

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
        self,
        found: Mapping[str, Mapping[str, Sequence[Path]]],
        classes: Sequence[str],
        above: Sequence[tuple[int, int]],
    ) -> dict[str, list[LabelledFile]]:
        copies = OneCopy(self.left_out)
        numbering = {name: number for number, name in enumerate(classes)}
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
) -> None:
    """Raises ValueError for the classes that `named` lacks."""
    unknown = [
        f"{folders[0]}: class {name!r} of {split}"
        for split, of_split in found.items()
        for name, folders in of_split.items()
        if name not in classes
    ]
    if unknown:
        verb = "is" if len(unknown) == 1 else "are"
        raise ValueError(f"{'; '.join(unknown)} {verb} not among the classes of {named} ({', '.join(classes)}).")
