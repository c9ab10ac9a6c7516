"""The group `augment`: what training does to images, by one word."""

from typing import Literal

from pydantic import Field

from frostline.config.section import OwnClass, Section


class Mixing(Section):
    """What blends the images of a batch."""

    mixup: float = Field(
        default=0.0, ge=0, description="alpha of mixup, which blends pairs of images and labels; 0 for none"
    )
    cutmix: float = Field(
        default=0.0, ge=0, description="alpha of CutMix, which pastes patches between images; 0 for none"
    )


class NamedAugment(Mixing):
    """Augmentation of training images."""

    name: Literal["none", "light", "crop", "standard", "trivial"] = Field(
        description="none; light: small shifts and flip; crop: random crop and flip, as in ImageNet recipes; standard: "
        "a milder random crop, flip and mild colour changes; trivial: one random operation of random strength "
        "(TrivialAugmentWide) and flip. data.horizontal_flip=false leaves the flip out"
    )


class OwnAugment(Mixing, OwnClass):
    """A transform of your own: any class whose objects turn a uint8 tensor (3, height, width) into another one.

    torch's global generator is seeded for each image, so that a run can be repeated and resumed exactly.
    """


Augment = NamedAugment | OwnAugment
