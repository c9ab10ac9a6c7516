"""The group `data`: where images come from, and how they become batches."""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlparse

from pydantic import Field, field_validator, model_validator

from frostline.config.paths import FilledFolder, InputFile, InputFolder, OutputFolder
from frostline.config.recommended import AUTO, Auto
from frostline.config.section import OwnClass, Section

Fraction = Annotated[float, Field(ge=0, lt=1)]
Three = Annotated[list[float], Field(min_length=3, max_length=3)]

PILLOWS_LIMIT = 178_956_970  # pixels; Pillow refuses to open more

NORMALISATION = "null for those of timm's network, else the source's own, else ImageNet's"
MANIFEST = "frostline.json"  # what a folder of shards has


class Data(Section):
    """What every source shares: from images to batches."""

    image_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="height and width in pixels of what the network sees; null for the size that the network's "
        "published weights were trained at, 224 for most",
    )
    batch_size: Annotated[int, Field(ge=1)] | Auto = Field(
        default=AUTO,
        description="images in one batch over all devices together; auto: 32, or fewer where there are few images",
    )
    resize: float = Field(
        default=1.0,
        ge=1,
        description="evaluation resizes the shorter side to image_size x resize and takes the centre; ImageNet's habit "
        "is 1.143",
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        default=None,
        description="how images are resized; null for the interpolation that the network's published weights were "
        "trained with, and that of the checkpoint where a run goes on",
    )
    horizontal_flip: bool = Field(
        default=True,
        description="let augmentation mirror images; false where left and right mean something, as in digits",
    )
    sampling: Literal["shuffled", "balanced"] = Field(
        default="shuffled",
        description="shuffled: each image once an epoch; balanced: with replacement, each class equally often",
    )
    mean: Three | None = Field(
        default=None, description=f"red, green and blue mean to normalise with, on the scale 0 to 1; {NORMALISATION}"
    )
    std: Three | None = Field(
        default=None, description=f"red, green and blue standard deviation to normalise with; {NORMALISATION}"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="loader processes per device; auto: none on two cores or for fewer than 1,000 images, else beside "
        "a GPU all cores but one, at most 8, and on a CPU one for each six cores",
    )
    loader_timeout: float = Field(
        default=120.0, ge=0, description="seconds to wait for a batch before the run fails; 0 waits for ever"
    )

    @field_validator("std")
    @classmethod
    def _positive(cls, std: list[float] | None) -> list[float] | None:
        if std is not None and min(std) <= 0:
            raise ValueError("each standard deviation must be above 0: images are divided by it")
        return std


class SplitOff(Data):
    """A source whose validation and test images may have to be split off."""

    val_fraction: Fraction = Field(
        default=0.15, description="part of each class kept for validation, where it is not given apart"
    )
    test_fraction: Fraction = Field(
        default=0.15, description="part of each class kept for the test, where nothing is given apart"
    )
    split_seed: int = Field(
        default=0, ge=0, description="seed of that split; not the run's, so that runs share their test images"
    )

    @model_validator(mode="after")
    def _something_to_train_on(self) -> "SplitOff":
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction:g} and test_fraction {self.test_fraction:g} leave nothing to train "
                "on: they must sum to less than 1"
            )
        return self


class Files(SplitOff):
    """A source of files: some may be broken, and classes too small to split."""

    rare_classes: Literal["raise", "train"] = Field(
        default="raise",
        description="what to do where a class has too few images to split: an error that names all such classes, or "
        "keep their images in train",
    )
    on_bad_image: Literal["raise", "skip"] = Field(
        default="raise",
        description="what to do with images that cannot be read. raise: name them all before the first step, from "
        "headers, check sums and ends of files (0.2 to 0.4 ms a JPEG or PNG and core; other formats are decoded). "
        "skip: decode every image once at the start (2 to 15 ms an image and core, in each process), leave the broken "
        "ones out, and name them",
    )


class Decoded(Data):
    """A source of encoded images."""

    max_pixels: int = Field(
        default=100_000_000, ge=1, le=PILLOWS_LIMIT, description="refuse larger images, before they are decoded"
    )
    scaled_decoding: bool = Field(
        default=True,
        description="decode a JPEG of 2 megapixels or more at 1/2, 1/4 or 1/8 of its size, where that leaves twice the "
        "pixels that are needed: pixels differ by a few grey levels; smaller images come out bit-identical",
    )


class ImageFiles(Decoded, Files):
    """A source of image files."""

    decoded_cache: OutputFolder | None = Field(
        default=None,
        description="folder that caches decoded images for later epochs, runs and processes; null: none",
    )
    decoded_cache_limit: float = Field(
        default=50.0,
        gt=0,
        description="GiB that data.decoded_cache may take; LRU eviction of what no run uses",
    )


class Random(Data):
    """Uniform noise and uniform soft labels: nothing to learn, for looking at gradients."""

    name: Literal["random"] = Field(description="the source's name")
    length: int = Field(default=1, ge=1, description="training images")
    val_length: int = Field(default=0, ge=0, description="validation images")
    test_length: int = Field(default=0, ge=0, description="test images")
    classes: int = Field(default=1000, ge=1, description="length of a label row")
    seed: int = Field(default=0, ge=0, description="seed of the noise")
    sampling: Literal["shuffled"] = Field(
        default="shuffled", description="each image once an epoch; soft labels cannot be balanced"
    )


class Synthetic(Data):
    """Procedural images that can be learned, made when they are asked for."""

    name: Literal["synthetic"] = Field(description="the source's name")
    length: int = Field(default=1000, ge=1, description="training images")
    val_length: int = Field(default=200, ge=0, description="validation images")
    test_length: int = Field(default=200, ge=0, description="test images")
    classes: int = Field(default=10, ge=2, description="number of classes")
    difficulty: float = Field(
        default=0.3, ge=0, le=1, description="0: clean and centred; 1: moved, turned, recoloured, noisy"
    )
    seed: int = Field(default=0, ge=0, description="seed of the classes' looks and of the images")


class Digits(SplitOff):
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; needs no download."""

    name: Literal["digits"] = Field(description="the source's name")


class FashionMNIST(Data):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28 x 28 pixels."""

    name: Literal["fashion_mnist"] = Field(description="the source's name")
    path: FilledFolder | None = Field(
        default=None,
        description="folder with the four idx files; null for those of Debian's package dataset-fashion-mnist",
    )
    download: bool = Field(default=False, description="fetch the files where they are not found")
    train_length: Annotated[int, Field(ge=10, le=60_000)] | None = Field(
        default=None, description="use only so many training images, the same share of each class; null for all"
    )
    val_length: int = Field(default=5000, ge=0, lt=60_000, description="training images kept for validation")
    split_seed: int = Field(default=0, ge=0, description="seed of the choice of validation and training images")

    @model_validator(mode="after")
    def _enough(self) -> "FashionMNIST":
        if (self.train_length or 0) + self.val_length > 60_000:
            raise ValueError(
                f"train_length {self.train_length:,} and val_length {self.val_length:,} are more than the 60,000 "
                "training images that there are"
            )
        return self


class ImageFolder(ImageFiles):
    """Images in folders named like their classes, with or without train, val and test folders above them."""

    name: Literal["image_folder"] = Field(description="the source's name")
    path: InputFolder | None = Field(
        default=None,
        validate_default=True,
        description="the folder: path/class/image, or path/train|val|test/class/image",
    )

    _is_given = field_validator("path")(lambda path: given(path, "FOLDER"))


class Csv(ImageFiles):
    """Images listed in a CSV file with the columns path, label and, if wanted, split."""

    name: Literal["csv"] = Field(description="the source's name")
    path: InputFile | None = Field(default=None, description="the CSV file; paths in it start at its folder")

    _is_given = field_validator("path")(lambda path: given(path, "FILE"))


class Streaming(Decoded):
    """Images that `frostline pack` wrote: in a folder, or in an S3-compatible store from which they are streamed."""

    name: Literal["streaming"] = Field(description="the source's name")
    path: InputFolder | None = Field(
        default=None, description="the folder of shards, or its address s3://bucket/folder"
    )
    endpoint_url: str | None = Field(default=None, description="address of an S3-compatible store; null for Amazon's")
    cache_dir: OutputFolder | None = Field(
        default=None, description="local folder for chunks from a store; null for ~/.cache/frostline/chunks"
    )
    cache_limit: float = Field(
        default=20.0, gt=0, description="GiB of chunks kept there; the longest unused are removed first"
    )
    window: int = Field(
        default=16,
        ge=8,
        description="chunks among which training images are shuffled at a time, and which are read at a time",
    )
    timeout: float = Field(default=20.0, gt=0, description="seconds to wait for the store, in each of 3 tries")
    sampling: Literal["shuffled"] = Field(default="shuffled", description="each image once an epoch, chunk after chunk")

    @field_validator("path")
    @classmethod
    def _shards(cls, path: str | None) -> str:
        path = given(path, "FOLDER, or data.path=s3://BUCKET/FOLDER")
        if "://" in path:
            address = urlparse(path)
            if address.scheme != "s3" or not address.netloc:
                raise ValueError(
                    f"must be a folder or s3://BUCKET/FOLDER, not {path}; another S3-compatible store's address goes "
                    "into data.endpoint_url"
                )
            return path
        if Path(path).is_dir() and not (Path(path) / MANIFEST).is_file():
            raise ValueError(
                f"no shards in {path} (it has no {MANIFEST}): write them with `frostline pack data=image_folder "
                f"data.path={path} output=SHARDS`, or use data=image_folder"
            )
        return path

    @field_validator("endpoint_url")
    @classmethod
    def _web(cls, url: str | None) -> str | None:
        if url is not None and (urlparse(url).scheme not in ("http", "https") or not urlparse(url).netloc):
            raise ValueError(f"must be http://HOST or https://HOST, not {url}")
        return url

    @model_validator(mode="after")
    def _for_a_store(self) -> "Streaming":
        if "://" not in (self.path or ""):
            for key in ("endpoint_url", "cache_dir"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} is for data.path=s3://BUCKET/FOLDER; a folder is read where it is")
        return self


TorchvisionName = Literal[
    "CIFAR10", "CIFAR100", "Caltech101", "Caltech256", "Country211", "DTD", "EuroSAT", "FER2013", "FGVCAircraft",
    "FakeData", "FashionMNIST", "Flowers102", "Food101", "GTSRB", "ImageNet", "Imagenette", "KMNIST", "MNIST",
    "OxfordIIITPet", "RenderedSST2", "SEMEION", "STL10", "SUN397", "SVHN", "StanfordCars", "USPS",
]  # fmt: skip


class Torchvision(Files):
    """One of torchvision's classification datasets."""

    name: Literal["torchvision"] = Field(description="the source's name")
    dataset: TorchvisionName = Field(default="CIFAR10", description="the class in torchvision.datasets")
    root: FilledFolder = Field(default="data", description="folder with its files, as torchvision lays them out")
    download: bool = Field(default=False, description="fetch the files where they are missing")
    options: dict[str, Any] = Field(
        default={}, description="further keys of the class's constructor, checked against it"
    )


class OwnSource(Data, OwnClass):
    """A source of your own: a class with `classes` (names) and `dataset(split)`; see frostline.data.source."""


Source = Random | Synthetic | Digits | FashionMNIST | ImageFolder | Csv | Streaming | Torchvision | OwnSource


def given(path: str | None, what: str) -> str:
    """The path; ValueError where there is none."""
    if path is None:
        raise ValueError(f"is required: type data.path={what}")
    return path
