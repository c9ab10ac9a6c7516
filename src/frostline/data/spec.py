"""What a classifier has to know of its data: the classes, and how an image becomes the network's input."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from frostline.data.transforms import INTERPOLATIONS

# Pixels on a side, resized: more than Pillow opens (179 million pixels), so that no larger ones can be meant.
LARGEST_SIDE = 2**14


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The classes, and how an image becomes the network's input; plain values, stored in every checkpoint.

    Attributes:
        classes: their names; a logit's index is its class.
        mean, std: red, green, blue, on the scale [0, 1].
        image_size: height and width in pixels.
        resize: evaluation resizes the shorter side to `image_size * resize` before it takes the centre.
        interpolation: of the resize, `bilinear` or `bicubic`.
        scaled_decoding: whether large JPEGs are decoded at reduced size.

    Raises:
        ValueError: a value that no data has.
    """

    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    image_size: int
    resize: float = 1.0
    interpolation: str = "bilinear"
    scaled_decoding: bool = False

    def __post_init__(self) -> None:
        for name in ("classes", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if problems := list(_problems(self)):
            raise ValueError("; ".join(problems))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataSpec":
        """`as_dict` reversed; other keys are left out."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, sequences as lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def preparation(self) -> dict[str, Any]:
        """Of `as_dict`, what makes a decoded image of any source the network's input."""
        return {name: value for name, value in self.as_dict().items() if name not in ("classes", "scaled_decoding")}


class Normalisation(nn.Module):
    """Maps images (batch, 3, height, width), uint8 or floats in [0, 1], to floats of mean 0 and standard deviation 1.

    Args:
        channels_last: give them in channels-last memory format.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: DataSpec, *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        # Not persistent: the checkpoint's state dict holds the network's tensors and nothing else.
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        pixels = (pixels - self.mean) / self.std
        return pixels.contiguous(memory_format=torch.channels_last) if self.channels_last else pixels


def _problems(spec: DataSpec) -> Iterator[str]:
    if not spec.classes or not all(isinstance(name, str) for name in spec.classes):
        yield "classes must be names"
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if not (len(values) == 3 and all(map(_is_number, values))):
            yield f"{name} must be 3 finite numbers, not {_short(list(values))}"
        elif name == "std" and min(values) <= 0:
            yield f"std must be greater than 0, not {_short(list(values))}"
    size, resize = spec.image_size, spec.resize
    if not (_is_number(size) and _is_number(resize) and size >= 1 and 0 < size * resize <= LARGEST_SIDE):
        yield (
            f"image_size {_short(size)} and resize {_short(resize)} must be greater than 0, and their product at most "
            f"{LARGEST_SIDE}"
        )
    if spec.interpolation not in INTERPOLATIONS:
        yield f"interpolation must be {' or '.join(INTERPOLATIONS)}, not {_short(spec.interpolation)}"
    if spec.scaled_decoding not in (True, False):
        yield "scaled_decoding must be true or false"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
