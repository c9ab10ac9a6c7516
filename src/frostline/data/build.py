"""From the `data` and `augment` sections of a config to a source and a datamodule: by name, or a user's own class."""

import inspect
from collections.abc import Mapping
from typing import Any

from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.source import ImageSource
from frostline.data.transforms import Augmentation
from frostline.nearest import suggest
from frostline.signatures import construct, find_class

# Imported when chosen: torchvision's datasets are slow to import.
SOURCES: Mapping[str, str] = {
    "random": "frostline.data.random_noise.RandomNoise",
    "synthetic": "frostline.data.synthetic.Synthetic",
    "digits": "frostline.data.digits.Digits",
    "fashion_mnist": "frostline.data.fashion_mnist.FashionMNIST",
    "image_folder": "frostline.data.image_folder.ImageFolder",
    "csv": "frostline.data.csv_table.CsvTable",
    "streaming": "frostline.data.streaming.Streaming",
    "torchvision": "frostline.data.torchvision_source.TorchvisionSource",
}
# The `augment` section of a command that changes no image.
NO_AUGMENTATION: Mapping[str, Any] = {"name": "none", "mixup": 0.0, "cutmix": 0.0}
SEE = "(see frostline.data.source)."
# Keys of the `data` section that are the datamodule's, not the source's.
SHARED_KEYS = (
    "image_size",
    "batch_size",
    "resize",
    "horizontal_flip",
    "sampling",
    "mean",
    "std",
    "workers",
    "loader_timeout",
)


def source_class(config: Mapping[str, Any]) -> type:
    """The class that `name`, or a user's own `_target_: "module.Class"`, stands for.

    Raises:
        ValueError: neither or both are given, no such name, or nothing to import there.
    """
    if ("name" in config) == ("_target_" in config):
        raise ValueError(f"A data source takes either name ({', '.join(SOURCES)}) or _target_ (module.Class).")
    if "name" in config:
        name = str(config["name"])
        if name not in SOURCES:
            raise ValueError(f"Unknown data source {name!r}.{suggest(name, SOURCES)} Choices: {', '.join(SOURCES)}.")
        target = SOURCES[name]
    else:
        target = str(config["_target_"])
    found = find_class(target, subclass_of=object, what="data")
    # Asked of the class, before anything is called: a path may come out of a checkpoint and name any class there is.
    if not callable(getattr(found, "dataset", None)):
        raise ValueError(f"`{target}` is no data source: it lacks a method `dataset(split)` {SEE}")
    return found


def build_source(config: Mapping[str, Any]) -> ImageSource:
    """A source from `name` or `_target_` and the keys of its constructor.

    Raises:
        ValueError: no such source; an unknown or missing key; a user's class without `classes` or `dataset`.
    """
    keys = {key: value for key, value in config.items() if key not in ("name", "_target_")}
    source = construct(source_class(config), keys, what="data")
    if not hasattr(source, "classes"):
        raise ValueError(f"`{type(source).__qualname__}` is no data source: it lacks `classes`, the names {SEE}")
    built: ImageSource = source
    return built


def build_datamodule(*, data: Mapping[str, Any], augment: Mapping[str, Any], seed: int) -> ImageDataModule:
    """A datamodule from the two config sections and the run's seed.

    Raises:
        ValueError: as `build_source`; a shared key is missing; the values do not fit together.
    """
    shared = {key: value for key, value in data.items() if key in SHARED_KEYS}
    missing = [key for key in SHARED_KEYS if key not in shared]
    if missing:
        raise ValueError(f"The data section lacks {', '.join(f'data.{key}' for key in missing)}.")
    own = {key: value for key, value in data.items() if key not in SHARED_KEYS}
    if "image_size" in inspect.signature(source_class(own)).parameters:
        own["image_size"] = shared["image_size"]
    workers = shared["workers"]
    return ImageDataModule(
        source=build_source(own),
        image_size=shared["image_size"],
        batch_size=shared["batch_size"],
        resize=shared["resize"],
        augment=Augmentation(**{**augment, "horizontal_flip": shared["horizontal_flip"]}),
        sampling=shared["sampling"],
        mean=shared["mean"],
        std=shared["std"],
        loading=Loading(workers=None if workers == "auto" else workers, timeout=shared["loader_timeout"]),
        seed=seed,
    )
