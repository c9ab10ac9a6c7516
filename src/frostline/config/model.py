"""The groups `model` and `head`."""

from typing import Annotated, Literal

from pydantic import Field

from frostline.config.paths import InputFile
from frostline.config.section import OwnClass, Section

# torchvision's networks for classification.
TorchvisionName = Literal[
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121", "densenet161",
    "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l",
    "efficientnet_v2_m", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet0_75",
    "mnasnet1_0", "mnasnet1_3", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf",
    "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf",
    "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf", "regnet_y_400mf",
    "regnet_y_800mf", "regnet_y_8gf", "resnet101", "resnet152", "resnet18", "resnet34", "resnet50",
    "resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "squeezenet1_0", "squeezenet1_1", "swin_b", "swin_s", "swin_t",
    "swin_v2_b", "swin_v2_s", "swin_v2_t", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19",
    "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32", "wide_resnet101_2", "wide_resnet50_2",
]  # fmt: skip

Weights = Literal["auto", "imagenet", "none"] | InputFile


class Backbone(Section):
    """A network of torchvision's under its own names and state-dict keys."""

    name: TorchvisionName = Field(description="torchvision's name of the network")
    weights: Weights = Field(
        default="auto",
        description="initial weights: `auto` (imagenet if cached or reachable within seconds, else random and a loud "
        "warning), `imagenet`, `none` (random), or the path or URL of a torchvision state dict, a safetensors file or "
        "a frostline checkpoint",
    )


class TimmBackbone(Backbone):
    """A network of timm's under its own names and state-dict keys: model=timm/NAME. Needs `frostline[timm]`."""

    name: str = Field(  # type: ignore[assignment]
        pattern=r"^timm/.+",
        examples=["timm/NAME"],
        description="timm's name of the network, as timm/vit_small_patch16_224, also with a tag of its weights",
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


Model = Backbone | TimmBackbone | OwnBackbone
Head = LinearHead | MlpHead | PretrainedHead | OwnHead
