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
from frostline.commands.run_folder import write_whole
from frostline.commands.train import quiet_libraries
from frostline.data.build import NO_AUGMENTATION, build_datamodule, source_class
from frostline.tracking.report import evaluation_facts, evaluation_text


@explained
def run(settings: Mapping[str, Any]) -> None:
    """Print the metrics of a checkpoint on one split, and write them to `output` where one is given."""
    quiet_libraries()
    classifier = load_classifier(settings["checkpoint"])
    trained_on = classifier.settings
    data_settings = settings.get("data") or trained_on.get("data")
    if data_settings is None:
        raise ValueError(
            "data: this checkpoint does not say on which data it was trained; name one, as data=image_folder"
        )
    images = {key: classifier.images[key] for key in ("image_size", "resize", "mean", "std")}
    if "scaled_decoding" in inspect.signature(source_class(data_settings)).parameters:
        images["scaled_decoding"] = classifier.images.get("scaled_decoding", False)
    if settings["batch_size"] is not None:
        images["batch_size"] = settings["batch_size"]
    data = build_datamodule(data={**data_settings, **images}, augment=NO_AUGMENTATION, seed=trained_on.get("seed", 0))
    split = settings["split"]
    if data.classes != classifier.classes:
        raise ValueError(
            f"data: its classes are not the checkpoint's. The data has {len(data.classes)} ({_listed(data.classes)}), "
            f"the checkpoint {len(classifier.classes)} ({_listed(classifier.classes)})"
        )
    if data.images(split) is None:
        raise ValueError(f"split: the data has no {split} images")
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
        write_whole(output, json.dumps(facts, indent=2) + "\n")
        print(f"written to {output.resolve()}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
