"""frostline evaluate: a checkpoint's results on data."""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from frostline.calibration import temperature_text
from frostline.checkpoint import CHECKPOINT_KEY, read_checkpoint
from frostline.classifier import ImageClassifier
from frostline.commands.build import build_data, listed, own_metrics
from frostline.commands.failures import explained
from frostline.commands.own_classes import build_own
from frostline.commands.phases import check_stored, unobeyed
from frostline.commands.run_log import quiet_libraries
from frostline.commands.trainer import device_options
from frostline.config.commands import EvaluateConfig, EvaluationConfig, stored_settings
from frostline.config.data import Decoded, Source
from frostline.config.secret_values import refuse_hidden
from frostline.config.training import Metrics, OwnLoss, TrainerSection
from frostline.data.build import source_class
from frostline.data.datamodule import ImageDataModule
from frostline.data.source import SPLITS
from frostline.options import ComputeOptions, TrainingOptions
from frostline.results.callback import ResultPictures
from frostline.storage.atomic import write_text
from frostline.storage.run_files import METRICS, run_folder_of
from frostline.test_time_augmentation import TestTimeAugmentation, views_text
from frostline.tracking.progress_bar import RunProgress
from frostline.tracking.report import evaluation_facts, evaluation_text
from frostline.trust import classes_named, without_keys

# How a source that is not divided yet is divided, and what else decides which image comes into which part.
FRACTIONS = ("val_fraction", "test_fraction", "split_seed")
DIVISION = (*FRACTIONS, "rare_classes", "on_bad_image")


@explained
def run(config: EvaluateConfig) -> None:
    """Print the metrics of a checkpoint on one split, and write them to `output` where one is given."""
    quiet_libraries()
    views, split = config.test_time_augmentation, config.split
    classifier = classifier_of(config, test_time_augmentation=views)
    data = data_of(config, classifier, split)
    if data.images(split) is None:
        others = [other for other in SPLITS if other != split and data.source.dataset(other) is not None]
        raise ValueError(f"split: the data has no {split} images; type split={' or split='.join(others)}")
    data.check_images([split])
    for line in (_counts(data, split), *data.notes):
        print(line)
    if views != "none":
        print(views_text(views))
    if classifier.calibration is not None:
        print(f"calibration error with {temperature_text(classifier.calibration)}; the other results without it")
    results = evaluated(config, classifier, data, split, callbacks=_pictures(config, data))
    named = {f"{split}/{name.partition('/')[2]}": float(value) for name, value in results.items()}
    outcome = evaluation_facts(named, classifier.confusion, classifier.classes)
    print(evaluation_text(outcome))
    if config.output is not None:
        output = Path(config.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        facts = {"checkpoint": config.checkpoint, "split": split, "test_time_augmentation": views, **outcome}
        write_text(output, json.dumps(facts, indent=2) + "\n")
        print(f"written to {output.resolve()}")


def evaluated(
    config: EvaluationConfig,
    classifier: ImageClassifier,
    data: ImageDataModule,
    split: str,
    *,
    callbacks: Sequence[lightning.Callback] = (),
) -> Mapping[str, float]:
    """The results on a split of the data, whose images have been checked, computed as the checkpoint's run computed."""
    precision = _precision(config, classifier.settings)
    trainer = lightning.Trainer(
        logger=False,
        callbacks=[RunProgress(), *callbacks],
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **device_options(config.device, precision=precision, image_size=data.image_size),
    )
    data.trainer = trainer  # by which it knows whether there is a GPU to pin memory for
    [results] = trainer.test(classifier, dataloaders=data.evaluation_loader(split), verbose=False)
    return results


def data_of(config: EvaluationConfig, classifier: ImageClassifier, split: str) -> ImageDataModule:
    """The data that was typed, as a whole where it lies in no split folders, or that of the training."""
    stored = classifier.settings
    whole = {} if config.data is None else _as_a_whole(config.data, stored.get("data") or {}, split)
    source = config.data or trained_on(config.checkpoint, stored, trust_checkpoint=config.trust_checkpoint)
    return data_for(classifier, source, batch_size=config.batch_size, constructor=whole)


def data_for(
    classifier: ImageClassifier,
    source: Source,
    *,
    batch_size: int | None = None,
    constructor: Mapping[str, Any] | None = None,
) -> ImageDataModule:
    """A source's images, prepared and labelled as a checkpoint's classifier takes them.

    Args:
        batch_size: None for the source's.
        constructor: see `build_data`.

    Raises:
        ValueError: the data has other classes.
    """
    images = classifier.data_spec.preparation
    if isinstance(source, Decoded):
        images["scaled_decoding"] = classifier.data_spec.scaled_decoding
    if batch_size is not None:
        images["batch_size"] = batch_size
    seed = classifier.settings.get("seed", 0)
    data = build_data(source.model_copy(update=images), seed=seed, constructor=constructor)
    if not data.take_order(classifier.classes):
        raise ValueError(
            f"data: its classes are not the checkpoint's. The data has {listed(data.classes)}, the checkpoint "
            f"{listed(classifier.classes)}"
        )
    return data


def _pictures(config: EvaluateConfig, data: ImageDataModule) -> list[ResultPictures]:
    if config.pictures is None:
        return []
    run = run_folder_of(Path(config.checkpoint))
    metrics = None if run is None else run / METRICS
    return [ResultPictures(Path(config.pictures), data=data, split=config.split, metrics=metrics)]


def classifier_of(
    config: EvaluationConfig, *, test_time_augmentation: TestTimeAugmentation = "none"
) -> ImageClassifier:
    """The checkpoint's classifier, with the loss and the metrics of the user's own that its run had; those of other
    packages only where the checkpoint is trusted.

    Raises:
        ValueError: the checkpoint is corrupt, or names classes that are not to be had.
    """
    described = read_checkpoint(config.checkpoint)[CHECKPOINT_KEY]
    sections = {key: described["settings"][key] for key in ("loss", "metrics") if key in described["settings"]}
    check_stored(config.checkpoint, {**sections, "trainer": described["settings"].get("trainer") or {}})
    if not config.trust_checkpoint and (foreign := list(classes_named(sections))):
        for key, target in foreign:
            instead = "; `loss` is the cross-entropy" if key.startswith("loss.") else ""
            print(f"note: {target} ({key}) of the checkpoint is left out{instead}; trust_checkpoint=true takes it")
        left_out = {key.removesuffix("._target_") for key, _ in foreign}
        sections = without_keys(sections, left_out)
    refuse_hidden(sections, where=config.checkpoint)
    loss, classes = sections.get("loss") or {}, len(described["images"]["classes"])
    training = TrainingOptions(
        loss=build_own("loss", OwnLoss.model_validate(loss)) if "_target_" in loss else None,
        metrics=own_metrics(Metrics.model_validate(sections.get("metrics") or {}), classes=classes),
    )
    return ImageClassifier.load_from_checkpoint(
        config.checkpoint,
        trust_checkpoint=config.trust_checkpoint,
        training=training,
        test_time_augmentation=test_time_augmentation,
        compute=ComputeOptions(engine=config.engine, channels_last=_trainer(described["settings"]).channels_last),
    )


def _trainer(stored: Mapping[str, Any]) -> TrainerSection:
    """How the checkpoint's run computed, as far as it says so."""
    section, keys = stored.get("trainer") or {}, ("precision", "channels_last")
    return TrainerSection.model_validate({key: section[key] for key in keys if key in section})


def _precision(config: EvaluationConfig, stored: Mapping[str, Any]) -> str:
    """The run's own precision, so that the results are the same, unless one was typed."""
    own = config.precision if config.precision != "auto" else _trainer(stored).precision
    return "auto" if own == "16-mixed" and config.precision == "auto" and not torch.cuda.is_available() else own


def trained_on(checkpoint: str, stored: Mapping[str, Any], *, trust_checkpoint: bool) -> Source:
    """The data that the checkpoint was trained on; without trust, only read.

    Args:
        stored: the config in it.

    Raises:
        ValueError: the checkpoint does not say, or its config is corrupt.
    """
    data = stored.get("data")
    if data is None:
        raise ValueError(
            "data: this checkpoint does not say on which data it was trained; name one, as data=image_folder"
        )
    check_stored(checkpoint, {key: stored[key] for key in ("data", "seed") if key in stored})
    refuse_hidden({"data": data}, where=checkpoint)
    if not trust_checkpoint:
        data = {**data, **unobeyed(checkpoint, {"data": data})}
    source: Any = EvaluateConfig.groups()["data"].section(stored_settings(EvaluateConfig, {"data": data})["data"])
    found: Source = source
    return found


def _as_a_whole(typed: Source, trained_on: Mapping[str, Any], split: str) -> dict[str, str]:
    """The key by which a source takes all images for the split, where they lie in no split folders.

    Not where the user typed fractions, nor for the images that the checkpoint was trained on.

    Raises:
        ValueError: they are those, and would be divided in another way: training images would be among the test images.
    """
    chosen = typed.model_dump(by_alias=True)
    parameters = inspect.signature(source_class(chosen)).parameters
    if _place(chosen) is not None and _place(chosen) == _place(trained_on):
        keys = [key for key in DIVISION if key in chosen and chosen[key] != trained_on.get(key, chosen[key])]
        if keys:
            wanted = " ".join(f"data.{key}={trained_on[key]}" for key in keys)
            raise ValueError(
                f"data: the checkpoint was trained on these images, divided otherwise ({', '.join(keys)}). Leave data "
                f"out to divide them the same way, or type {wanted}"
            )
        return {}
    if "whole_as" not in parameters or any(
        chosen.get(key, parameters[key].default) != parameters[key].default for key in FRACTIONS
    ):
        return {}
    return {"whole_as": split}


def _place(data: Mapping[str, Any]) -> Path | None:
    place = data.get("path")
    return None if place is None or "://" in str(place) else Path(place).expanduser().resolve()


def _counts(data: ImageDataModule, split: str) -> str:
    counts = {other: len(images) for other in SPLITS if (images := data.source.dataset(other)) is not None}
    rest = ", ".join(f"{count:,} {other}" for other, count in counts.items() if other != split)
    apart = f"; not evaluated: {rest}" if rest else ""
    return f"data: {counts[split]:,} {split} images of {sum(counts.values()):,}{apart}"
