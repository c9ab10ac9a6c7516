"""A data source by its name, or of a user's own class."""

from collections.abc import Mapping
from typing import Any

from frostline.data.source import ImageSource
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
SEE = "(see frostline.data.source)."


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
