"""torchvision's classification datasets by name, with the three splits that training needs made out of theirs."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import datasets

from frostline.data.decoding import PILLOWS_LIMIT
from frostline.data.files import broken_among
from frostline.data.folders import LeftOut
from frostline.data.image_file import UnreadableImage
from frostline.data.source import LabelledImage, LabelledImages
from frostline.data.splitting import divide
from frostline.nearest import suggest
from frostline.storage.locks import locked

Splits = Mapping[str, Mapping[str, Any]]

_FLAG: Splits = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST: Splits = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL_TEST: Splits = {split: {"split": split} for split in ("train", "val", "test")}
_TRAIN_VAL: Splits = {split: {"split": split} for split in ("train", "val")}
_WHOLE: Splits = {"all": {}}

# How each class is asked for its splits. Classes that give no one label per image (boxes, captions, video, …) are out,
# as are those whose label depends on further options that have no natural default.
DATASETS: Mapping[str, Splits] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "USPS"), _FLAG),
    **dict.fromkeys(("Food101", "GTSRB", "STL10", "SVHN", "StanfordCars", "FER2013"), _TRAIN_TEST),
    **dict.fromkeys(("Flowers102", "DTD", "FGVCAircraft", "RenderedSST2"), _TRAIN_VAL_TEST),
    **dict.fromkeys(("Imagenette", "ImageNet"), _TRAIN_VAL),
    **dict.fromkeys(("EuroSAT", "Caltech101", "Caltech256", "SEMEION", "SUN397", "FakeData"), _WHOLE),
    "Country211": {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
}


class TorchvisionSource:
    """A torchvision dataset; val and test are split off, seeded and stratified, where it has none of its own.

    Args:
        dataset: the class's name in torchvision.datasets, of those in `DATASETS`.
        root: folder with its files.
        download: fetch them where they are missing; for classes that can.
        val_fraction: of the training images, where the dataset has no val split.
        test_fraction: of all images, where it has no splits at all.
        rare_classes: `raise`, or `train` to keep a class that is too small to split in train.
        on_bad_image: `skip` to decode every file once, here, and leave out those that cannot be read.
        options: further keys of the class's constructor, such as `{annotation_level: family}`.

    Raises:
        ValueError: the dataset is not supported, an option is not in its signature, or it cannot download.
        FileNotFoundError: its files are not in `root`.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: str = "data",
        download: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        rare_classes: str = "raise",
        on_bad_image: str = "raise",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.left_out = LeftOut()
        self._cls = _supported(dataset)
        self._arguments = _arguments(self._cls, root=str(Path(root).expanduser()), download=download, options=options)
        splits = {
            split: TorchvisionImages(_open(self._cls, {**self._arguments, **choice}))
            for split, choice in DATASETS[dataset].items()
        }
        self._classes = _class_names(splits.get("train") or splits["all"])
        self._splits, self.split_note, self.notes = divide(
            splits,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=split_seed,
            classes=self._classes,
            rare_classes=rare_classes,
            left_out=self.left_out if on_bad_image == "skip" else None,
        )

    @property
    def classes(self) -> Sequence[str]:
        return self._classes

    def dataset(self, split: str) -> LabelledImages | None:
        return self._splits.get(split)


class TorchvisionImages(LabelledImages):
    """Some of a torchvision dataset's images."""

    def __init__(self, images: Any, indices: Sequence[int] | None = None, labels: Sequence[int] | None = None) -> None:
        self.images = images
        self.indices = range(len(images)) if indices is None else indices
        self._labels = labels

    @property
    def labels(self) -> Sequence[int]:
        if self._labels is None:
            known = labels_of(self.images)
            self._labels = [known[index] for index in self.indices]
        return self._labels

    @property
    def paths(self) -> list[str] | None:
        """The images' files, where the dataset keeps a list of them."""
        for name in ("samples", "_samples", "_image_files", "_images", "imgs"):
            found = getattr(self.images, name, None)
            if isinstance(found, (list, tuple)) and len(found) == len(self.images):
                paths = [item[0] if isinstance(item, tuple) else item for item in found]
                if all(isinstance(path, (str, os.PathLike)) for path in paths):
                    return [os.fspath(paths[index]) for index in self.indices]
        return None

    def broken(self, *, thorough: bool = False) -> dict[int, UnreadableImage]:
        """Position -> reason, of the files that cannot be read; none of a dataset that keeps no list of files."""
        return broken_among(self.paths or [], max_pixels=PILLOWS_LIMIT, thorough=thorough)

    def subset(self, indices: Sequence[int]) -> "TorchvisionImages":
        labels = self.labels
        return TorchvisionImages(self.images, [self.indices[i] for i in indices], [labels[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> LabelledImage:
        try:
            image, label = self.images[self.indices[index]]
        except (OSError, SyntaxError) as error:  # what Pillow raises of broken files
            name = self.paths[index] if self.paths else f"{type(self.images).__name__}, image {self.indices[index]}"
            raise UnreadableImage(name, f"cannot be decoded ({error})") from error
        return (image.convert("RGB") if isinstance(image, Image.Image) else image), int(label)


def labels_of(images: Any) -> list[int]:
    """Every label, from the attribute that the class keeps them in, or else by reading each image once."""
    for name in ("targets", "labels", "_labels", "y"):
        labels = getattr(images, name, None)
        if labels is not None and len(labels) == len(images):
            return [int(label) for label in labels]
    samples = getattr(images, "samples", None) or getattr(images, "_samples", None)
    if samples is not None and len(samples) == len(images):
        return [int(sample[1]) for sample in samples]
    return [int(images[index][1]) for index in range(len(images))]


def _supported(name: str) -> Any:
    if name in DATASETS:
        return getattr(datasets, name)
    exists = "is in torchvision, but not as one label per image" if name in datasets.__all__ else "is not supported"
    raise ValueError(f"dataset={name} {exists}.{suggest(name, DATASETS)} Supported: {', '.join(sorted(DATASETS))}.")


def _arguments(cls: Any, *, root: str, download: bool, options: Mapping[str, Any] | None) -> dict[str, Any]:
    known = [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    reserved = {"root", "train", "split", "download", "transform", "target_transform", "transforms", "loader"}
    arguments = dict(options or {})
    free = [name for name in known if name not in reserved]
    for key in arguments:
        if key not in free:
            raise ValueError(f"options: {cls.__name__} has no option {key!r}. Choices: {', '.join(free) or 'none'}.")
    if "root" in known:
        arguments["root"] = root
    if "download" in known or cls in (datasets.KMNIST, datasets.FashionMNIST):
        arguments["download"] = download
    elif download:
        raise ValueError(f"download=True: torchvision cannot download {cls.__name__}; put its files in `root`.")
    return arguments


def _open(cls: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        if not arguments.get("download"):
            return cls(**arguments)
        root = Path(arguments["root"])
        root.mkdir(parents=True, exist_ok=True)
        # Several ranks of one machine start at the same time.
        with locked(root / ".download.lock", advice="type root=ANOTHER_FOLDER"):
            return cls(**arguments)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{cls.__name__} cannot be read from root={arguments.get('root')}: {error} "
            "(download=True fetches it where torchvision can)."
        ) from error


def _class_names(images: TorchvisionImages) -> list[str]:
    for name in ("classes", "categories"):
        names = getattr(images.images, name, None)
        if names:
            # ImageNet's names are tuples of synonyms.
            return [str(item[0] if isinstance(item, tuple) else item) for item in names]
    return [str(label) for label in range(max(images.labels) + 1)]
