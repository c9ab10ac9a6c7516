"""frostline tour: autograd explained by statements that run, each value checked against the mathematics."""

from frostline.autograd.tour import Tour, terminal
from frostline.commands.failures import explained
from frostline.config.autograd import TourKeys


@explained
def run(config: TourKeys) -> None:
    """Run the whole tour in the terminal."""
    Tour(terminal(width=config.width), weights=config.weights).run()
