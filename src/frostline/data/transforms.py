"""Images to tensors of one size: one way for training, by one word, and one for evaluation.

uint8 stays uint8: a batch crosses to the device as bytes, and is normalised there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AUGMENTATIONS = ("none", "light", "crop", "standard", "trivial")
# Of the image's area, by the name of the augmentation; that of `crop` is what ImageNet recipes take.
CROP_AREA = {"crop": (0.08, 1.0), "standard": (0.25, 1.0)}
INTERPOLATIONS = ("bilinear", "bicubic")  # of a resize
CROP_RATIO = (3 / 4, 4 / 3)  # width to height
# Of a longer image only the middle is resized: of 40,000 x 1 pixels, the whole would take 8.6 GB at 256 pixels a side.
LONGEST = 16  # times the shorter side

Transform = Callable[[Image.Image | torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training does to images.

    Attributes:
        name: `none`; `light`: shifts by up to an eighth, flip; `crop`: a random crop of 8 to 100 % of the area at
            aspect ratio 3:4 to 4:3, flip; `standard`: a crop of 25 to 100 %, flip, mild colour changes; `trivial`: one
            random operation of random strength (TrivialAugmentWide, arXiv 2103.10158) on the cropped image, flip.
        own: in place of these, a transform of the user's own, from a uint8 image `(3, height, width)` to another one;
            a result of another size is resized and cropped as in evaluation. `name` is then free.
        horizontal_flip: False where left and right mean something, as in digits.
        mixup: alpha of mixup (arXiv 1710.09412), 0 for none.
        cutmix: alpha of CutMix (arXiv 1905.04899), 0 for none; with both, each batch gets one of them at random.
    """

    name: str = "light"
    horizontal_flip: bool = True
    mixup: float = 0.0
    cutmix: float = 0.0
    own: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if self.own is None and self.name not in AUGMENTATIONS:
            raise ValueError(f"Unknown augmentation {self.name!r}; choose from {', '.join(AUGMENTATIONS)}.")
        if not (0 <= self.mixup < math.inf and 0 <= self.cutmix < math.inf):
            raise ValueError(f"mixup={self.mixup} and cutmix={self.cutmix} must be finite and at least 0.")


def evaluation_transform(*, image_size: int, resize: float = 1.0, interpolation: str = "bilinear") -> Transform:
    """Shorter side to `image_size * resize`, then the centre; to a tensor `(3, image_size, image_size)`.

    A float image that has the size already passes unchanged.
    """
    transform: Transform = v2.Compose(_centre(image_size, resize, interpolation))
    return transform


def training_transform(
    augment: Augmentation, *, image_size: int, resize: float = 1.0, interpolation: str = "bilinear"
) -> Transform:
    """The same, with the augmentation's random changes; randomness comes from torch's global generator."""
    steps: list[Any]
    if augment.own is not None:
        fitted = Fitted(image_size=image_size, resize=resize, interpolation=interpolation)
        steps = [v2.ToImage(), middle, v2.ToPureTensor(), augment.own, fitted]
        if augment.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip())
        own: Transform = v2.Compose(steps)
        return own
    if augment.name == "none":
        return evaluation_transform(image_size=image_size, resize=resize, interpolation=interpolation)
    if augment.name == "light":
        steps = [
            *_centre(image_size, resize, interpolation),
            v2.RandomCrop(image_size, padding=max(1, image_size // 8), padding_mode="reflect"),
        ]
    elif augment.name in CROP_AREA:
        steps = [
            v2.ToImage(),
            v2.RandomResizedCrop(
                image_size,
                scale=CROP_AREA[augment.name],
                ratio=CROP_RATIO,
                interpolation=v2.InterpolationMode(interpolation),
                antialias=True,
            ),
        ]
        if augment.name == "standard":
            steps.append(v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2))
    else:
        steps = [*_centre(image_size, resize, interpolation), v2.TrivialAugmentWide()]
    if augment.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    transform: Transform = v2.Compose([*steps, v2.ToPureTensor()])
    return transform


def shorter_side(*, image_size: int, resize: float = 1.0, augment: Augmentation | None = None) -> int:
    """Pixels of an image's shorter side that a transform makes use of: what more it has is averaged away.

    Evaluation, and the augmentations that start like it, resize the shorter side to `image_size * resize`. The random
    crop of `standard` may take a quarter of the area at 3:4, whose shorter side is sqrt(0.25 * 0.75) of a square
    image's: that one still has `image_size` pixels. So with the 8 % of `crop`.

    Args:
        augment: None for evaluation.
    """
    if augment is None or augment.name not in CROP_AREA:
        return round(image_size * resize)
    return math.ceil(image_size / math.sqrt(CROP_AREA[augment.name][0] * CROP_RATIO[0]))


def _centre(image_size: int, resize: float, interpolation: str) -> list[Any]:
    return [
        v2.ToImage(),
        middle,
        v2.Resize(round(image_size * resize), v2.InterpolationMode(interpolation), antialias=True),
        v2.CenterCrop(image_size),
        v2.ToPureTensor(),
    ]


class Fitted:
    """An image `(3, height, width)` at `(3, image_size, image_size)`: as in evaluation where it has another size."""

    def __init__(self, *, image_size: int, resize: float, interpolation: str = "bilinear") -> None:
        self.shape = (3, image_size, image_size)
        self.centre = v2.Compose(_centre(image_size, resize, interpolation))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if not isinstance(image, torch.Tensor) or image.ndim != 3 or image.shape[0] != 3:
            found = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
            raise ValueError(f"augment: the transform has to return a tensor (3, height, width), not {found}")
        fitted: torch.Tensor = image if image.shape == self.shape else self.centre(image)
        return fitted


def middle(image: torch.Tensor) -> torch.Tensor:
    """The image `(…, height, width)`, or of one longer than `LONGEST` the middle: a centre crop sees no more of it."""
    height, width = image.shape[-2:]
    most = LONGEST * min(height, width)
    top, left = (max(0, side - most) // 2 for side in (height, width))
    return image[..., top : top + most, left : left + most] if top or left else image


def mix_batch(
    images: torch.Tensor, targets: torch.Tensor, *, augment: Augmentation, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup or CutMix on a batch: images `(batch, 3, height, width)`, targets `(batch,)` or `(batch, classes)`.

    Returns:
        Images of the same type, and soft targets float32 `(batch, classes)`.
    """
    ways: list[Any] = []
    if augment.mixup:
        ways.append(v2.MixUp(alpha=augment.mixup, num_classes=classes))
    if augment.cutmix:
        ways.append(v2.CutMix(alpha=augment.cutmix, num_classes=classes))
    if not ways:
        return images, targets
    kind = images.dtype
    # MixUp blends in floating point; on uint8 it would truncate.
    mixed, soft = v2.RandomChoice(ways)(images.float(), targets)
    if kind == torch.uint8:
        mixed = mixed.round().to(torch.uint8)
    return mixed, soft


def checked_normalisation(values: Sequence[float] | None, default: Sequence[float], name: str) -> list[float]:
    """Three channel values as floats, or the default.

    Raises:
        ValueError: not three values, or a standard deviation that is not positive.
    """
    chosen = [float(value) for value in (default if values is None else values)]
    if len(chosen) != 3 or not all(map(math.isfinite, chosen)) or (name == "std" and min(chosen) <= 0):
        kind = "finite, positive" if name == "std" else "finite"
        raise ValueError(f"{name} takes three {kind} values (red, green, blue): {chosen}.")
    return chosen
