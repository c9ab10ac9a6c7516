"""frostline tour: autograd explained by statements that run, each value checked against the mathematics."""

from frostline.autograd.tour import Tour, terminal
from frostline.commands.failures import explained
from frostline.config.commands import TourConfig


@explained
def run(config: TourConfig) -> None:
    """Run the whole tour in the terminal."""
    Tour(terminal(width=config.width), weights=config.weights).run()
