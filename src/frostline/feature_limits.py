"""What keeps a network from being split, and the features of images from being stored."""

from torch import nn

from frostline.data.datamodule import ImageDataModule
from frostline.freezing.checks import is_sharded


def why_not_split(network: nn.Module) -> str | None:
    """Why a network cannot be split; None where it can."""
    if is_sharded(network):
        return "FSDP2 gathers its weights in hooks of the whole network"
    # One forward pre-hook is the policy's, which holds modes.
    if network._forward_hooks or len(network._forward_pre_hooks) > 1:
        return "hooks on the whole network would not see its parts"
    return None


def is_augmented(data: ImageDataModule) -> bool:
    """Whether training sees something else of an image than evaluation does."""
    return data.augment.name != "none"


def why_not_stored(data: ImageDataModule, split: str, *, views: int) -> str | None:
    """Why features of a split's images cannot be stored; None where they can."""
    images = data.images(split)
    assert images is not None
    if images.labels is None and getattr(images, "soft_labels", None) is None:
        return f"their labels are soft, and {type(images).__name__} has no `soft_labels`"
    if getattr(images, "identity", None) is None:
        return f"{type(images).__name__} cannot tell whether its images have changed (`identity`)"
    if split != "train":
        return None
    if data.augment.mixup or data.augment.cutmix:
        return "mixup and CutMix make new images of them in each batch"
    if is_augmented(data) and not views:
        return (
            f"augment={data.augment.name} makes new ones in each epoch (to store them: augment=none, or views=4 for "
            "four fixed views of each)"
        )
    return None
