"""frostline gradients: what reaches each stage of a classifier under its policy."""

import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from frostline.autograd.diagnose import findings_of, gradient_table
from frostline.autograd.flow import Flow, by_stage
from frostline.autograd.gradient_flow import measure_gradients
from frostline.autograd.gradient_plot import plot_gradients
from frostline.commands.failures import explained
from frostline.commands.phases import build_at_phase
from frostline.commands.run_log import quiet_libraries
from frostline.config.commands import GradientsConfig
from frostline.figures import save_figure
from frostline.freezing.selectors import in_stage, stages_of
from frostline.numeric_checks import one_value_explained
from frostline.storage.atomic import atomically
from frostline.storage.names import cell

COLUMNS = ("norm", "mean", "maximum", "zeros", "update_ratio", "noise")


@explained
def run(config: GradientsConfig) -> None:
    """Measure the gradients on training batches, in float32, and print what they say."""
    quiet_libraries()
    setup = build_at_phase(config, list(HydraConfig.get().overrides.task))
    classifier, network = setup.classifier, setup.classifier.network
    batches = (
        (classifier.normalised(images.to(classifier.device)), labels.to(classifier.device))
        for images, labels in islice(setup.data.train_dataloader(), config.batches)
    )
    with one_value_explained(processes=1):
        flows = measure_gradients(network, batches, classifier.loss, setup.optimizer())
    stages = by_stage(network, flows)
    console = Console(highlight=False, markup=False)
    console.print(
        f"{setup.title}; Δw of one step at optimizer.lr={setup.config.optimizer.lr:g}, without its schedule\n"
    )
    console.print(gradient_table(stages))
    found = findings_of(stages)
    console.print(f"\n{len(found)} finding{'' if len(found) == 1 else 's'}")
    if config.output is not None:
        folder = Path(config.output)
        members = {
            stage: [name for name, _ in network.named_parameters() if in_stage(name, modules)]
            for stage, modules in stages_of(network).items()
        }
        figure = plot_gradients(flows, members, title=setup.title)
        paths = [save_figure(figure, folder / f"gradients.{ending}") for ending in ("png", "svg")]
        for path in (*paths, write_csv(flows, folder / "gradients.csv")):
            print(f"written to {path.resolve()}")


def write_csv(flows: Sequence[Flow], path: Path) -> Path:
    """A row for each parameter; empty where there is no gradient."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["parameter", "trains", *COLUMNS])
        for flow in flows:
            scalars = flow.scalars()
            rows.writerow([cell(flow.name), bool(flow.trainable), *(scalars.get(column, "") for column in COLUMNS)])
    return path
