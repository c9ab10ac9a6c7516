"""frostline show: training images as the network will see them, before any training."""

from frostline.commands.build import build_data
from frostline.commands.failures import explained
from frostline.commands.run_log import quiet_libraries
from frostline.config.commands import ShowConfig
from frostline.figures import save_figure
from frostline.results.image_grids import SEEN, draw_seen


@explained
def run(config: ShowConfig) -> None:
    """Draw the first training images of a run with these keys, as in its pictures/seen.png."""
    quiet_libraries()
    data = build_data(config.data, config.augment, seed=config.seed, model=config.model)
    figure = draw_seen(*data.first_batch(at_most=SEEN), data.classes)
    path = save_figure(figure, config.output)
    images = data.images("train")
    assert images is not None, "first_batch has taken some of them"
    print(
        "\n".join([*data.notes, f"{min(SEEN, data.batch_size)} of {len(images):,} training images: {path.resolve()}"])
    )
