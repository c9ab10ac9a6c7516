"""The group `augment`: what training does to images, by one word."""

from typing import Literal

from pydantic import Field

from frostline.config.section import Section


class Augment(Section):
    """Augmentation of training images."""

    name: Literal["none", "light", "crop", "standard", "trivial"] = Field(
        description="none; light: small shifts and flip; crop: random crop and flip, as in ImageNet recipes; standard: "
        "a milder random crop, flip and mild colour changes; trivial: one random operation of random strength "
        "(TrivialAugmentWide) and flip. data.horizontal_flip=false leaves the flip out"
    )
    mixup: float = Field(
        default=0.0, ge=0, description="alpha of mixup, which blends pairs of images and labels; 0 for none"
    )
    cutmix: float = Field(
        default=0.0, ge=0, description="alpha of CutMix, which pastes patches between images; 0 for none"
    )
