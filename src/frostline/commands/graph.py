"""frostline graph: draw the autograd graph of a classifier under its policy."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig

from frostline.autograd.blocks import blocks_of
from frostline.autograd.drawing import Drawing, draw_operations, draw_stages
from frostline.autograd.graph import inconsistencies
from frostline.autograd.observe import Observation, observe
from frostline.autograd.stage_view import stage_text
from frostline.commands.failures import explained
from frostline.commands.phases import PhaseSetup, build_at_phase
from frostline.commands.run_log import quiet_libraries
from frostline.commands.trainer import native_precision
from frostline.config.commands import GraphConfig


@explained
def run(config: GraphConfig) -> None:
    """Run one training batch forward, draw the graph of its loss, and say where the files lie."""
    quiet_libraries()
    setup = build_at_phase(config, list(HydraConfig.get().overrides.task))
    precision = precision_of(setup)
    title = f"{setup.title}, {precision}"
    observation = observed(setup, precision)
    drawings: dict[str, Drawing] = {}
    if "stages" in config.views:
        drawings["stages"] = draw_stages(observation, title=title)
    if "operations" in config.views:
        drawings["operations"] = draw_operations(observation.graph, title=title)
    [summary] = {drawing.summary for drawing in drawings.values()}
    print(f"{title}\n{summary}\n\n{stage_text(blocks_of(observation))}")
    for sentence in inconsistencies(observation.graph, observation.network, setup.optimizer()):
        print(f"NOTE: {sentence}")
    for view, drawing in drawings.items():
        for ending in config.formats:
            print(f"written to {drawing.save(Path(config.output) / f'{view}.{ending}').resolve()}")


def observed(setup: PhaseSetup, precision: str) -> Observation:
    """The network's forward pass on the first training batch, in the precision of the run."""
    classifier = setup.classifier
    images, labels = (tensor.to(classifier.device) for tensor in next(iter(setup.data.train_dataloader())))
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    with torch.autocast(classifier.device.type, dtype=half, enabled=half is not None):
        return observe(
            classifier.network, classifier.normalised(images), lambda logits: classifier.loss(logits, labels)
        )


def precision_of(setup: PhaseSetup) -> str:
    """The run's precision. Mixed ones add nodes that convert, and keep converted copies of the weights."""
    precision = setup.config.trainer.precision
    if precision != "auto":
        return precision
    accelerator = "gpu" if setup.classifier.device.type == "cuda" else "cpu"
    return native_precision(accelerator, image_size=setup.data.image_size)
