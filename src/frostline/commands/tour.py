"""frostline tour: autograd explained by statements that run, each value checked against the mathematics."""

from collections.abc import Mapping
from typing import Any

from frostline.autograd.tour import Tour, terminal
from frostline.commands.failures import explained


@explained
def run(settings: Mapping[str, Any]) -> None:
    """Run the whole tour in the terminal."""
    Tour(terminal(width=settings["width"]), weights=settings["weights"]).run()
