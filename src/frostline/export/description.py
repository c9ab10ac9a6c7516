"""What a program has to know of an exported network: how an image becomes its input, and what its outputs mean."""

from collections.abc import Mapping
from typing import Any

from frostline.data.spec import DataSpec
from frostline.export.format_names import FILES, FormatName
from frostline.export.formats import INPUT, OUTPUT

DESCRIPTION = "preprocessing.json"


def describe(
    spec: DataSpec, *, name: FormatName, recipe: Mapping[str, Any] | None, temperature: float = 1.0
) -> dict[str, Any]:
    """The content of `DESCRIPTION`, as plain values.

    Args:
        recipe: of the network, as a checkpoint holds it: for a file of weights, what they are loaded into.
        temperature: by which the logits are divided; see `frostline calibrate`.
    """
    size, weights_alone = spec.image_size, name == "safetensors"
    outside = weights_alone and temperature != 1
    return {
        "file": FILES[name],
        "format": name,
        "network": None if recipe is None else dict(recipe),
        "input": {
            "name": INPUT,
            "type": "float32",
            "shape": ["any number of images", 3, size, size],
            "channels": "red, green, blue",
            "range": [0, 1],
        },
        "steps": [
            "decode to RGB; divide 8-bit values by 255",
            f"resize the shorter side to {round(size * spec.resize)} pixels, {spec.interpolation}, antialiased",
            f"take the {size} x {size} pixels of the centre",
            *(["subtract mean and divide by std, channel by channel"] if weights_alone else []),
        ],
        "resize": {
            "shorter_side": round(size * spec.resize),
            "interpolation": spec.interpolation,
            "antialias": True,
            "centre_crop": size,
        },
        "normalisation": {
            "mean": list(spec.mean),
            "std": list(spec.std),
            "within_the_model": not weights_alone,
        },
        "output": {
            "name": OUTPUT,
            "type": "float32",
            "meaning": f"logits; {'divided by the temperature, ' * outside}their softmax are the probabilities",
        },
        "temperature": {"value": temperature, "within_the_model": not weights_alone},
        "classes": list(spec.classes),
    }
