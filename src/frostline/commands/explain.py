"""frostline explain: where in images a classifier finds its class, as heat maps."""

import importlib.util
import itertools
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from frostline.classifier import ImageClassifier
from frostline.commands.failures import explained
from frostline.commands.trainer import torch_device
from frostline.config.commands import ExplainConfig
from frostline.data.folders import LeftOut
from frostline.data.prediction_files import ImageFiles, find_images
from frostline.figures import save_figure
from frostline.grad_cam import draw_heat_map, heat_map, last_feature_map
from frostline.nearest import suggest
from frostline.storage.names import first_of, utf8_name


@explained
def run(config: ExplainConfig) -> None:
    """Write a picture for each image, and print its class; an image that cannot be read is named with the reason."""
    if importlib.util.find_spec("captum") is None:
        raise ValueError("explain: needs captum: pip install 'frostline[explain]'")
    device = torch_device(config.device)
    classifier = ImageClassifier.load_from_checkpoint(
        config.checkpoint, device, trust_checkpoint=config.trust_checkpoint
    )
    classes, network, spec = classifier.classes, classifier.network, classifier.data_spec
    of_class = None if config.of_class is None else str(config.of_class)
    if of_class is not None and of_class not in classes:
        raise ValueError(
            f"of_class={of_class}: the checkpoint has no such class. It has: {first_of(classes, most=20)}."
            f"{suggest(of_class, classes)}"
        )
    inputs, left_out = config.inputs, LeftOut()
    paths = find_images([inputs] if isinstance(inputs, str) else inputs, left_out=left_out)
    blank = classifier.normalised(torch.zeros(1, 3, spec.image_size, spec.image_size, device=device))
    layer = last_feature_map(network, blank)
    folder, names = Path(config.output), set[str]()
    for items in DataLoader(ImageFiles(paths, spec=spec), batch_size=1, collate_fn=list):
        [(image, path, reason)] = items
        if image is None:
            print(f"{path}: {reason}")
            continue
        [probabilities] = classifier.probabilities(image[None])
        best = int(probabilities.argmax())
        place = best if of_class is None else classes.index(of_class)
        inputs_of_network = classifier.normalised(image[None].to(device))
        [heat] = heat_map(network, inputs_of_network, place, layer=layer.name)
        title = f"{classes[place]}: {100 * probabilities[place]:.1f} %"
        if place != best:
            title += f" (most probable: {classes[best]}, {100 * probabilities[best]:.1f} %)"
        target = folder / f"{_free(Path(path).stem, names)}.png"
        save_figure(draw_heat_map(image, heat, title=f"{utf8_name(Path(path).name)}\n{title}"), target)
        print(f"{path}: {title}: {target}")
    for line in left_out.lines():
        print(line)
    print(f"{len(names)} of {len(paths)} images explained by {layer.name}, {layer.shape[1]} × {layer.shape[2]} places")
    if not names:
        raise ValueError("inputs: no image could be read.")


def _free(stem: str, names: set[str]) -> str:
    """A name that no picture of this call has, also where file systems know no case."""
    tried = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    name = next(name for name in tried if name.lower() not in names)
    names.add(name.lower())
    return name
