"""frostline show: training images as the network will see them, before any training."""

from frostline.commands.arguments import with_keys
from frostline.commands.build import build_data
from frostline.commands.failures import explained
from frostline.commands.run_log import quiet_libraries
from frostline.config.commands import ShowConfig
from frostline.data.report import DataReport
from frostline.figures import save_figure
from frostline.results.image_grids import SEEN, draw_seen


@explained
def run(config: ShowConfig) -> None:
    """Draw the first training images of a run with these keys, as in its pictures/seen.png."""
    quiet_libraries()
    data = build_data(config.data, config.augment, seed=config.seed, model=config.model)
    figure = draw_seen(*data.first_batch(at_most=SEEN), data.classes)
    path = save_figure(figure, config.output)
    report = DataReport(data, most_files=None)
    complete = path.resolve().with_suffix(".json")
    report.write(complete)
    print(with_keys("\n".join([*report.lines, f"complete report on the data: {complete}"])))
    print(f"{min(SEEN, data.batch_size)} training images: {path.resolve()}")
