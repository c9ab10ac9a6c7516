"""frostline evaluate: a checkpoint's results on data."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning

from frostline.classifier import load_classifier
from frostline.commands.build import build_data
from frostline.commands.failures import explained
from frostline.commands.phases import check_stored, unobeyed
from frostline.commands.run_log import quiet_libraries
from frostline.commands.trainer import device_options
from frostline.config.commands import EvaluateConfig, stored_settings
from frostline.config.data import Decoded, Source
from frostline.config.secret_values import refuse_hidden
from frostline.data.build import source_class
from frostline.data.datamodule import ImageDataModule
from frostline.data.source import SPLITS
from frostline.storage.atomic import write_text
from frostline.tracking.report import evaluation_facts, evaluation_text

# How a source that is not divided yet is divided, and what else decides which image comes into which part.
FRACTIONS = ("val_fraction", "test_fraction", "split_seed")
DIVISION = (*FRACTIONS, "rare_classes", "on_bad_image")


@explained
def run(config: EvaluateConfig) -> None:
    """Print the metrics of a checkpoint on one split, and write them to `output` where one is given."""
    quiet_libraries()
    classifier = load_classifier(config.checkpoint, trust_checkpoint=config.trust_checkpoint)
    trained_on, split = classifier.settings, config.split
    whole = {} if config.data is None else _as_a_whole(config.data, trained_on.get("data") or {}, split)
    source = config.data or _trained_on(config, trained_on)
    images = {key: classifier.images[key] for key in ("image_size", "resize", "mean", "std")}
    if isinstance(source, Decoded):
        images["scaled_decoding"] = classifier.images.get("scaled_decoding", False)
    if config.batch_size is not None:
        images["batch_size"] = config.batch_size
    data = build_data(source.model_copy(update=images), seed=trained_on.get("seed", 0), constructor=whole)
    if not data.take_order(classifier.classes):
        raise ValueError(
            f"data: its classes are not the checkpoint's. The data has {len(data.classes)} ({_listed(data.classes)}), "
            f"the checkpoint {len(classifier.classes)} ({_listed(classifier.classes)})"
        )
    if data.images(split) is None:
        others = [other for other in SPLITS if other != split and data.source.dataset(other) is not None]
        raise ValueError(f"split: the data has no {split} images; type split={' or split='.join(others)}")
    data.check_images([split])
    for line in (_counts(data, split), *data.notes):
        print(line)
    trainer = lightning.Trainer(
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **device_options(config.device, precision=config.precision),
    )
    data.trainer = trainer  # by which it knows whether there is a GPU to pin memory for
    [results] = trainer.test(classifier, dataloaders=data.evaluation_loader(split), verbose=False)
    named = {f"{split}/{name.partition('/')[2]}": float(value) for name, value in results.items()}
    outcome = evaluation_facts(named, classifier.confusion, classifier.classes)
    print(evaluation_text(outcome))
    if config.output is not None:
        output = Path(config.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        facts = {"checkpoint": config.checkpoint, "split": split, **outcome}
        write_text(output, json.dumps(facts, indent=2) + "\n")
        print(f"written to {output.resolve()}")


def _trained_on(config: EvaluateConfig, stored: Mapping[str, Any]) -> Source:
    """The data that the checkpoint was trained on; without trust, only read.

    Raises:
        ValueError: the checkpoint does not say, or its config is corrupt.
    """
    data = stored.get("data")
    if data is None:
        raise ValueError(
            "data: this checkpoint does not say on which data it was trained; name one, as data=image_folder"
        )
    check_stored(config.checkpoint, {key: stored[key] for key in ("data", "seed") if key in stored})
    refuse_hidden({"data": data}, where=config.checkpoint)
    if not config.trust_checkpoint:
        data = {**data, **unobeyed(config.checkpoint, {"data": data})}
    settings = stored_settings(EvaluateConfig, {**config.as_dict(), "data": data})
    source = EvaluateConfig.model_validate(settings).data
    assert source is not None
    return source


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


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
