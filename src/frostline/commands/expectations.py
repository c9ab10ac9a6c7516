"""What a run cannot be expected to reach, before its first step: frozen random weights, few images, few steps."""

from collections.abc import Iterator

from frostline.classifier import ImageClassifier
from frostline.commands.run_length import run_length
from frostline.config.commands import TrainConfig
from frostline.config.model import OwnBackbone
from frostline.config.recommended import AUTO, FEW_IMAGES, FEW_STEPS
from frostline.data.datamodule import ImageDataModule
from frostline.models.weights import LoadedWeights


def refuse_frozen_random_weights(config: TrainConfig, classifier: ImageClassifier, weights: LoadedWeights) -> None:
    """Refuse a policy that leaves random weights frozen to the end, unless `model.weights=none` asked for them.

    Raises:
        ValueError: it does; with the reason why there are no trained weights.
    """
    own = isinstance(config.model, OwnBackbone)  # whose class may load weights by itself
    if own or weights.loaded or config.model.weights != AUTO or config.resume_from is not None:
        return
    last = classifier.resolved.phases[-1].trainable
    if any(name not in last for name, _ in classifier.network.named_parameters()):
        raise ValueError(
            f"freeze={config.freeze.name}: the frozen layers would keep random weights, on whose features a head "
            f"learns little. Choose freeze=none, or give the network weights. {weights.warning}."
        )


def expectations(config: TrainConfig, data: ImageDataModule, weights: LoadedWeights) -> Iterator[str]:
    """A sentence for random weights with few images, and one for few optimizer steps."""
    images = len(data.images("train") or ())
    if not weights.loaded and images <= FEW_IMAGES and not isinstance(config.model, OwnBackbone):
        yield (
            f"{images:,} training images and random weights: enough for simple images such as digits, hardly for "
            "photos, which need pretrained weights (model.weights=FILE)"
        )
    steps, _ = run_length(config.trainer, data)
    if steps < FEW_STEPS and not config.trainer.fast_dev_run:
        yield (
            f"{steps:,} optimizer steps: a network has hardly begun to learn after fewer than about {FEW_STEPS} "
            "(trainer.max_epochs)"
        )
