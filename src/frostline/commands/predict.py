"""frostline predict: the classes of images in files."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from frostline.calibration import temperature_text
from frostline.classifier import ImageClassifier
from frostline.commands.failures import explained
from frostline.commands.trainer import torch_device
from frostline.config.commands import PredictConfig
from frostline.data.folders import LeftOut
from frostline.data.prediction_files import find_images
from frostline.options import ComputeOptions
from frostline.test_time_augmentation import views_text
from frostline.tracking.predictions import Prediction, counts_table, predict_files, write_predictions


@explained
def run(config: PredictConfig) -> None:
    """Write a CSV with a row for each image, and print a single image's classes, or how many images have each class.

    An image that cannot be read has the reason in its row.
    """
    device = torch_device(config.device)
    classifier = ImageClassifier.load_from_checkpoint(
        config.checkpoint,
        device,
        trust_checkpoint=config.trust_checkpoint,
        compute=ComputeOptions(engine=config.engine),
        test_time_augmentation=config.test_time_augmentation,
    )
    inputs = config.inputs
    left_out = LeftOut()
    paths = find_images([inputs] if isinstance(inputs, str) else inputs, left_out=left_out)
    output, top_k = Path(config.output), min(config.top_k, len(classifier.classes))
    if output.is_file() and any(os.path.realpath(path) == os.path.realpath(output) for path in paths):
        raise ValueError(f"output: `{output}` is one of the images, which it would replace. Name another file.")
    predictions: Iterable[Prediction] = predict_files(
        classifier.probabilities, paths, spec=classifier.data_spec, top_k=top_k, batch_size=config.batch_size
    )
    one = len(paths) == 1
    predictions = list(predictions) if one else predictions
    counts = write_predictions(predictions, output, top_k=top_k)
    broken = counts.pop("", 0)
    read = counts.total()
    unreadable = f"; {broken:,} could not be read (see the column error)" if broken else ""
    about = sys.stderr if output.exists() and not output.is_file() else sys.stdout  # /dev/stdout has the table
    for line in left_out.lines():
        print(line, file=about)
    if config.test_time_augmentation != "none":
        print(views_text(config.test_time_augmentation), file=about)
    if classifier.calibration is not None:
        print(f"probabilities with {temperature_text(classifier.calibration)}", file=about)
    if one or read:
        print(*(predictions if one else [counts_table(counts)]), file=about)
    print(f"{read:,} image{'s' * (read != 1)} predicted{unreadable}: {output}", file=about)
