"""frostline evaluate: a checkpoint's results on data."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning

from frostline.classifier import load_classifier
from frostline.commands.build import device_options
from frostline.commands.failures import explained
from frostline.commands.phases import check_stored, unobeyed
from frostline.commands.train import quiet_libraries
from frostline.config.secret_values import refuse_hidden
from frostline.data.build import NO_AUGMENTATION, build_datamodule, source_class
from frostline.data.datamodule import ImageDataModule
from frostline.data.source import SPLITS
from frostline.storage.atomic import write_text
from frostline.tracking.report import evaluation_facts, evaluation_text

# How a source that is not divided yet is divided, and what else decides which image comes into which part.
FRACTIONS = ("val_fraction", "test_fraction", "split_seed")
DIVISION = (*FRACTIONS, "rare_classes", "on_bad_image")


@explained
def run(settings: Mapping[str, Any]) -> None:
    """Print the metrics of a checkpoint on one split, and write them to `output` where one is given."""
    quiet_libraries()
    trusted = settings["trust_checkpoint"]
    classifier = load_classifier(settings["checkpoint"], trust_checkpoint=trusted)
    trained_on = classifier.settings
    data_settings = settings.get("data") or trained_on.get("data")
    if data_settings is None:
        raise ValueError(
            "data: this checkpoint does not say on which data it was trained; name one, as data=image_folder"
        )
    if not settings.get("data"):
        check_stored(settings["checkpoint"], {key: trained_on[key] for key in ("data", "seed") if key in trained_on})
        refuse_hidden({"data": data_settings}, where=str(settings["checkpoint"]))
    if not settings.get("data") and not trusted:
        data_settings = {**data_settings, **unobeyed(settings["checkpoint"], {"data": data_settings})}
    images = {key: classifier.images[key] for key in ("image_size", "resize", "mean", "std")}
    if "scaled_decoding" in inspect.signature(source_class(data_settings)).parameters:
        images["scaled_decoding"] = classifier.images.get("scaled_decoding", False)
    if settings["batch_size"] is not None:
        images["batch_size"] = settings["batch_size"]
    split = settings["split"]
    if settings.get("data"):
        images |= _as_a_whole(data_settings, trained_on.get("data") or {}, split)
    data = build_datamodule(data={**data_settings, **images}, augment=NO_AUGMENTATION, seed=trained_on.get("seed", 0))
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
        **device_options(settings["device"], precision=settings["precision"]),
    )
    data.trainer = trainer  # by which it knows whether there is a GPU to pin memory for
    [results] = trainer.test(classifier, dataloaders=data.evaluation_loader(split), verbose=False)
    named = {f"{split}/{name.partition('/')[2]}": float(value) for name, value in results.items()}
    outcome = evaluation_facts(named, classifier.confusion, classifier.classes)
    print(evaluation_text(outcome))
    if settings["output"] is not None:
        output = Path(settings["output"])
        output.parent.mkdir(parents=True, exist_ok=True)
        facts = {"checkpoint": str(settings["checkpoint"]), "split": split, **outcome}
        write_text(output, json.dumps(facts, indent=2) + "\n")
        print(f"written to {output.resolve()}")


def _as_a_whole(typed: Mapping[str, Any], trained_on: Mapping[str, Any], split: str) -> dict[str, str]:
    """The key by which a source takes all images for the split, where they lie in no split folders.

    Not where the user typed fractions, nor for the images that the checkpoint was trained on.

    Raises:
        ValueError: they are those, and would be divided in another way: training images would be among the test images.
    """
    parameters = inspect.signature(source_class(typed)).parameters
    if _place(typed) is not None and _place(typed) == _place(trained_on):
        keys = [key for key in DIVISION if key in typed and typed[key] != trained_on.get(key, typed[key])]
        if keys:
            wanted = " ".join(f"data.{key}={trained_on[key]}" for key in keys)
            raise ValueError(
                f"data: the checkpoint was trained on these images, divided otherwise ({', '.join(keys)}). Leave data "
                f"out to divide them the same way, or type {wanted}"
            )
        return {}
    if "whole_as" not in parameters or any(
        typed.get(key, parameters[key].default) != parameters[key].default for key in FRACTIONS
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
