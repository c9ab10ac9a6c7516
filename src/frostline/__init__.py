"""Fine-tune image classifiers with part of the network frozen, and prove that it stayed frozen."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.classifier import ImageClassifier, load_classifier
    from frostline.data.datamodule import ImageDataModule
    from frostline.data.transforms import Augmentation
    from frostline.freezing import FreezePolicy, FreezingSchedule, Phase, Until
    from frostline.models.network import build_network

# Found when first asked for: `import frostline` alone imports neither torch nor Lightning.
_HOMES = {
    "Augmentation": "frostline.data.transforms",
    "FreezePolicy": "frostline.freezing",
    "FreezingSchedule": "frostline.freezing",
    "ImageClassifier": "frostline.classifier",
    "ImageDataModule": "frostline.data.datamodule",
    "Phase": "frostline.freezing",
    "Until": "frostline.freezing",
    "build_network": "frostline.models.network",
    "load_classifier": "frostline.classifier",
}

__all__ = [
    "Augmentation",
    "FreezePolicy",
    "FreezingSchedule",
    "ImageClassifier",
    "ImageDataModule",
    "Phase",
    "Until",
    "build_network",
    "load_classifier",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
