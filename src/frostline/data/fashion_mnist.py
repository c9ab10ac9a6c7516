"""Fashion-MNIST from its four files: 60,000 training and 10,000 test images of 28 x 28 pixels (arXiv 1708.07747)."""

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torchvision import datasets
from torchvision.datasets import mnist

from frostline.data.source import ArrayImages, LabelledImages
from frostline.data.splitting import stratified_subset
from frostline.storage.locks import locked

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CACHE_FOLDER = Path("~/.cache/frostline/fashion_mnist")
CLASSES = tuple(datasets.FashionMNIST.classes)


class FashionMNIST:
    """Fashion-MNIST; validation is a seeded stratified part of the training images.

    Args:
        path: folder with the four files (`train-images-idx3-ubyte`, … with or without `.gz`), in it or where
            torchvision puts them below it; None for Debian's folder, else the cache folder.
        download: fetch them with torchvision where they are not found.
        train_length: use only so many training images, the same share of each class; None for all.
        val_length: training images kept for validation.

    Raises:
        FileNotFoundError: the files are nowhere, and may not be downloaded.
        ValueError: a file is corrupt, or more images are asked for than there are.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        download: bool = False,
        train_length: int | None = None,
        val_length: int = 5000,
        split_seed: int = 0,
    ) -> None:
        folder = _folder(None if path is None else Path(path).expanduser(), download)
        given = read_pair(folder, "train")
        val = stratified_subset(given.labels, length=val_length, seed=split_seed) if val_length else []
        train = sorted({*range(len(given))} - {*val})
        if train_length is not None:
            labels = [given.labels[index] for index in train]
            train = [train[index] for index in stratified_subset(labels, length=train_length, seed=split_seed + 1)]
        if not train:
            raise ValueError(f"val_length={val_length} leaves no image of {len(given):,} to train on.")
        self._splits = {"train": given.subset(train), "test": read_pair(folder, "t10k")}
        if val:
            self._splits["val"] = given.subset(val)
        self.split_note = f"{len(val):,} training images for val (val_length={val_length}, split_seed={split_seed})"

    @property
    def classes(self) -> Sequence[str]:
        return CLASSES

    def dataset(self, split: str) -> LabelledImages | None:
        return self._splits.get(split)


def read_pair(folder: Path, part: str) -> ArrayImages:
    """The images of the part `train` or `t10k`.

    Raises:
        ValueError: the two files do not fit together, or one is corrupt.
    """
    images = _read(_file(folder, f"{part}-images-idx3-ubyte"), mnist.read_image_file)
    labels = _read(_file(folder, f"{part}-labels-idx1-ubyte"), mnist.read_label_file)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {part} has {len(images):,} images and {len(labels):,} labels.")
    if len(labels) and labels.max() >= len(CLASSES):
        raise ValueError(f"{folder}: {part} has the label {labels.max()}; Fashion-MNIST has 0 to {len(CLASSES) - 1}.")
    return ArrayImages(images=images, labels=labels.tolist())


def _read(path: Path, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    try:
        if path.suffix != ".gz":
            return read(str(path))
        with gzip.open(path) as content, tempfile.NamedTemporaryFile() as unpacked:
            shutil.copyfileobj(content, unpacked)
            unpacked.flush()
            return read(unpacked.name)
    except Exception as error:  # torchvision's reader asserts and indexes
        raise ValueError(f"{path}: corrupt, or not an IDX file ({error or type(error).__name__}).") from error


def _file(folder: Path, name: str) -> Path:
    return next(path for path in (folder / name, folder / f"{name}.gz") if path.is_file())


def _folders(path: Path | None) -> Iterator[Path]:
    places = [DEBIAN_FOLDER, CACHE_FOLDER.expanduser()] if path is None else [path]
    for place in places:
        yield from (place, place / "FashionMNIST" / "raw", place / "raw")


def _complete(folder: Path) -> bool:
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names)


def _folder(path: Path | None, download: bool) -> Path:
    for folder in _folders(path):
        if _complete(folder):
            return folder
    if not download:
        where = f"path={path}" if path else f"{DEBIAN_FOLDER} or {CACHE_FOLDER}"
        raise FileNotFoundError(
            f"Fashion-MNIST's four files (train-images-idx3-ubyte.gz, …) are not in {where}. Three ways out: "
            "path=FOLDER where they are; on Debian, apt-get install dataset-fashion-mnist (and leave `path` "
            "out); download=True, which needs the network."
        )
    target = path or CACHE_FOLDER.expanduser()
    target.mkdir(parents=True, exist_ok=True)
    # Several ranks of one machine start at the same time.
    with locked(target / ".download.lock", advice="type path=ANOTHER_FOLDER"):
        try:
            datasets.FashionMNIST(str(target), download=True)
        except Exception as error:
            raise FileNotFoundError(f"Fashion-MNIST could not be downloaded to {target} ({error}).") from error
    return target / "FashionMNIST" / "raw"
