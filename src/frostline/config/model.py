"""The groups `model` and `head`."""

from typing import Annotated, Literal

from pydantic import Field

from frostline.config.paths import PathText
from frostline.config.section import OwnClass, Section

ResNetName = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

Weights = Literal["auto", "imagenet", "none"] | PathText


class Backbone(Section):
    """A torchvision ResNet under its own names and state-dict keys."""

    name: ResNetName = Field(description="torchvision's name of the network")
    weights: Weights = Field(
        default="auto",
        description="initial weights: `auto` (imagenet if cached or reachable within seconds, else random and a loud "
        "warning), `imagenet`, `none` (random), or the path or URL of a torchvision state dict, a safetensors file or "
        "a frostline checkpoint",
    )


class OwnBackbone(OwnClass):
    """A network of your own: a torch.nn.Module with its classifier in `fc`."""

    weights: Weights = Field(default="none", description="initial weights: `none` (as constructed), or a path or URL")


class LinearHead(Section):
    """One new linear layer."""

    name: Literal["linear"] = Field(description="the head's name")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of the features dropped before the layer in training"
    )


class MlpHead(Section):
    """Hidden layers with ReLU, then one linear layer."""

    name: Literal["mlp"] = Field(description="the head's name")
    hidden: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, description="sizes of the hidden layers")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of a hidden layer's outputs dropped in training")


class PretrainedHead(Section):
    """The classifier that the weights came with; the data must have as many classes."""

    name: Literal["pretrained"] = Field(description="the head's name")


class OwnHead(OwnClass):
    """A head of your own: a torch.nn.Module whose constructor takes `features` and `classes`."""


Model = Backbone | OwnBackbone
Head = LinearHead | MlpHead | PretrainedHead | OwnHead
