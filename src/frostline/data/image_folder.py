"""A folder of images: one folder per class, with or without train, val and test folders above them."""

import os
from collections.abc import Sequence
from pathlib import Path

from frostline.data.decoding import EXTENSIONS, MAX_PIXELS
from frostline.data.files import FileImages, LabelledFile, divide, images_under
from frostline.data.packed import packing
from frostline.data.source import LabelledImages

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class ImageFolder:
    """Images at `path/class/…` or `path/train|val|test/class/…`; class names are the folder names, sorted.

    Args:
        path: the folder.
        val_fraction: of each class's training images, where there is no val folder.
        test_fraction: of each class's images, where there are no train, val and test folders.
        max_pixels: larger images are errors, before they are decoded.
        scaled_decoding: decode JPEGs of several megapixels at reduced size where that is enough.
        packed: folder in which decoded images are kept for later epochs and runs; None for none.
        packed_limit: GiB that it may take.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders or no images; a class without images, unknown in train, or too small to split.
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
        root = Path(path).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"data.path={root}: no such folder.")
        folders = split_folders(root)
        self._classes = _class_names(folders.get("train", root))
        for split, folder in folders.items():
            for name in _class_names(folder):
                if name not in self._classes:
                    raise ValueError(
                        f"{folder / name}: class {name!r} of {split} is not among the classes of train "
                        f"({', '.join(self._classes)})."
                    )
        files = {split: _labelled(folder, self._classes) for split, folder in (folders or {"all": root}).items()}
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


def split_folders(root: Path) -> dict[str, Path]:
    """split -> its folder; empty where `root` holds the class folders itself.

    Raises:
        ValueError: val or test folders without a train folder, or two folders for one split.
    """
    folders: dict[str, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        present = [root / name for name in names if (root / name).is_dir()]
        if len(present) > 1:
            raise ValueError(f"{root}: {' and '.join(folder.name for folder in present)} both mean {split}; keep one.")
        if present:
            folders[split] = present[0]
    if folders and "train" not in folders:
        raise ValueError(
            f"{root} has {', '.join(folder.name for folder in folders.values())} but no train folder. "
            "Layouts: path/train|val|test/class/image, or path/class/image."
        )
    return folders


def _class_names(folder: Path) -> list[str]:
    names = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not names:
        loose = next(images_under(folder), None)
        hint = " Images lie in it directly; put each class's images in a folder of their own." if loose else ""
        raise ValueError(f"{folder}: no class folders in it.{hint}")
    return names


def _labelled(folder: Path, classes: Sequence[str]) -> list[LabelledFile]:
    files: list[LabelledFile] = []
    for name in _class_names(folder):
        paths = list(images_under(folder / name))
        if not paths:
            others = sorted({path.suffix for path in (folder / name).iterdir() if path.is_file()})
            seen = f" It holds {', '.join(ending or 'files without ending' for ending in others)}." if others else ""
            raise ValueError(
                f"{folder / name}: no images in this class folder.{seen} "
                f"Images end in {', '.join(sorted(EXTENSIONS))} (upper or lower case)."
            )
        files += [LabelledFile(str(path), classes.index(name)) for path in paths]
    return files
