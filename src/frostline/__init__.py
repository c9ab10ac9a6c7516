"""Fine-tune image classifiers with part of the network frozen, and prove that it stayed frozen."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.autograd.gradient_flow import GradientFlow as GradientFlow
    from frostline.classifier import ImageClassifier as ImageClassifier
    from frostline.data.csv_table import CsvTable as CsvTable
    from frostline.data.datamodule import ImageDataModule as ImageDataModule
    from frostline.data.digits import Digits as Digits
    from frostline.data.fashion_mnist import FashionMNIST as FashionMNIST
    from frostline.data.image_folder import ImageFolder as ImageFolder
    from frostline.data.loading import Loading as Loading
    from frostline.data.random_noise import RandomNoise as RandomNoise
    from frostline.data.source import ArrayImages as ArrayImages
    from frostline.data.source import ImageSource as ImageSource
    from frostline.data.source import LabelledImages as LabelledImages
    from frostline.data.spec import DataSpec as DataSpec
    from frostline.data.streaming import Streaming as Streaming
    from frostline.data.synthetic import Synthetic as Synthetic
    from frostline.data.torchvision_source import TorchvisionSource as TorchvisionSource
    from frostline.data.transforms import Augmentation as Augmentation
    from frostline.freezing import FreezePolicy as FreezePolicy
    from frostline.freezing import FreezingSchedule as FreezingSchedule
    from frostline.freezing import Phase as Phase
    from frostline.freezing import Until as Until
    from frostline.models.network import build_network as build_network
    from frostline.options import CheckpointOptions as CheckpointOptions
    from frostline.options import ComputeOptions as ComputeOptions
    from frostline.options import FeatureCache as FeatureCache
    from frostline.options import TrainingOptions as TrainingOptions
    from frostline.resume import ExactResume as ExactResume

# Imported on first use: `import frostline` alone imports neither torch nor Lightning.
_MODULES = {
    "autograd.gradient_flow": ("GradientFlow",),
    "classifier": ("ImageClassifier",),
    "data.csv_table": ("CsvTable",),
    "data.datamodule": ("ImageDataModule",),
    "data.loading": ("Loading",),
    "data.digits": ("Digits",),
    "data.fashion_mnist": ("FashionMNIST",),
    "data.image_folder": ("ImageFolder",),
    "data.random_noise": ("RandomNoise",),
    "data.source": ("ArrayImages", "ImageSource", "LabelledImages"),
    "data.spec": ("DataSpec",),
    "data.streaming": ("Streaming",),
    "data.synthetic": ("Synthetic",),
    "data.torchvision_source": ("TorchvisionSource",),
    "data.transforms": ("Augmentation",),
    "freezing": ("FreezePolicy", "FreezingSchedule", "Phase", "Until"),
    "models.network": ("build_network",),
    "options": ("CheckpointOptions", "ComputeOptions", "FeatureCache", "TrainingOptions"),
    "resume": ("ExactResume",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"frostline.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
