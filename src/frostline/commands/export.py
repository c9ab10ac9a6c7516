"""frostline export: a checkpoint's network for other programs, compared with the original before it is there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.checkpoint import CHECKPOINT_KEY, read_checkpoint
from frostline.classifier import ImageClassifier
from frostline.commands.evaluate import data_for, trained_on
from frostline.commands.failures import explained
from frostline.commands.run_folder import read_facts
from frostline.commands.run_log import quiet_libraries
from frostline.config.commands import ExportConfig
from frostline.data.prediction_files import ImageFiles, find_images
from frostline.data.source import SPLITS
from frostline.export.comparison import TIMED, Comparison, compare
from frostline.export.description import DESCRIPTION, describe
from frostline.export.format_names import FILES, check_installed
from frostline.export.formats import PreparedNetwork, load, write
from frostline.export.model_card import model_card
from frostline.options import ComputeOptions
from frostline.storage.atomic import atomic_folder, write_text
from frostline.storage.run_files import LAST, run_folder_of
from frostline.tables import size

COMPARED = 16  # images
CARD = "MODEL_CARD.md"


@explained
def run(config: ExportConfig) -> None:
    """Write the folder: the network, its preparation of images, and its model card."""
    quiet_libraries()
    check_installed(config.format)
    checkpoint = Path(config.checkpoint)
    output = Path(config.output) if config.output is not None else _beside(checkpoint) / config.format
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output: `{output}` is there already. Name another folder, or remove it")
    classifier = ImageClassifier.load_from_checkpoint(
        checkpoint, trust_checkpoint=config.trust_checkpoint, compute=ComputeOptions(engine="torch")
    )
    images, origin = _images(config, classifier)
    spec = classifier.data_spec
    model = PreparedNetwork(classifier.network, spec, temperature=classifier.temperature).eval()
    with atomic_folder(output) as part:
        write(config.format, model, images[:1].repeat(2, 1, 1, 1), part / FILES[config.format])
        compared = compare(model, load(config.format, part / FILES[config.format], model), images)
        recipe = classifier.checkpoint_options.recipe
        described = describe(spec, name=config.format, recipe=recipe, temperature=classifier.temperature)
        description = json.dumps(described, indent=2, ensure_ascii=False)
        write_text(part / DESCRIPTION, description + "\n")
        write_text(part / CARD, _card(checkpoint, classifier))
        sizes = {file.name: file.stat().st_size for file in sorted(part.iterdir())}
    print(_text(compared, origin, sizes, output))


def _beside(checkpoint: Path) -> Path:
    return (run_folder_of(checkpoint) or checkpoint.parent) / "export"


def _images(config: ExportConfig, classifier: ImageClassifier) -> tuple[Tensor, str]:
    """Up to `COMPARED` real images (n, 3, height, width), float32 in [0, 1], and where they are from.

    Raises:
        ValueError: none can be read.
    """
    if config.inputs is not None:
        inputs = [config.inputs] if isinstance(config.inputs, str) else config.inputs
        found = find_images(inputs)
        files = ImageFiles(found[:COMPARED], spec=classifier.data_spec)
        read = [image for image, _, _ in (files[index] for index in range(len(files))) if image is not None]
        if not read:
            raise ValueError(f"inputs: none of the images can be read: {files[0][2]}")
        return _as_floats(read), f"{len(read)} images of inputs"
    try:
        source = trained_on(config.checkpoint, classifier.settings, trust_checkpoint=config.trust_checkpoint)
        data = data_for(classifier, source)
        split = next(split for split in reversed(SPLITS) if data.images(split) is not None)
        decoded, transform = data.images_and_transform(split)
        indices = torch.linspace(0, len(decoded) - 1, min(COMPARED, len(decoded))).long().tolist()
        read = [transform(decoded[index][0]) for index in indices]
    except (ValueError, OSError) as error:
        raise ValueError(
            f"inputs: the network is compared on real images, and those of its training are out of reach ({error}). "
            "Name some, as inputs=photos"
        ) from error
    return _as_floats(read), f"{len(read)} {split} images"


def _as_floats(images: list[Tensor]) -> Tensor:
    return torch.stack([image.float() / 255 if image.dtype == torch.uint8 else image.float() for image in images])


def _card(checkpoint: Path, classifier: ImageClassifier) -> str:
    folder = run_folder_of(checkpoint)
    facts: Mapping[str, Any] = {} if folder is None else read_facts(folder)
    # A run tests its best checkpoint, or the last one where it has no best.
    tested = Path(facts.get("best_checkpoint") or f"{LAST}.ckpt").name
    beside = checkpoint.with_name(tested)
    parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    described = read_checkpoint(checkpoint)[CHECKPOINT_KEY]
    is_tested = beside.exists() and beside.samefile(checkpoint)
    return model_card(described, facts, parameters=parameters, tested=is_tested)


def _text(compared: Comparison, origin: str, sizes: Mapping[str, int], output: Path) -> str:
    files = ", ".join(f"{name} ({size(count)})" for name, count in sizes.items())
    return "\n".join(
        [
            f"compared on {origin}: the same class on all, largest difference of a logit "
            f"{compared.largest_difference:.2g}",
            f"one image: {compared.milliseconds:.1f} ms, by PyTorch {compared.milliseconds_before:.1f} ms (median of "
            f"{TIMED}, {torch.get_num_threads()} threads)",
            f"{output.resolve()}: {files}",
        ]
    )
