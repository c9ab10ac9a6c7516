"""frostline tour: autograd explained by statements that run, each value checked against the mathematics."""

from collections.abc import Mapping
from typing import Any

from frostline.autograd.tour import Tour, terminal
from frostline.autograd.tour.chapters import tell_all
from frostline.commands.failures import explained


@explained
def run(settings: Mapping[str, Any]) -> None:
    """Tell the whole tour in the terminal."""
    tell_all(Tour(voice=terminal(width=settings["width"]), weights=settings["weights"]))
