"""The tour: autograd explained by statements that run, with every printed value checked against the mathematics."""

from frostline.autograd.tour.renderers import notebook, terminal
from frostline.autograd.tour.run import Tour, TourFailure, all_close, error_of

__all__ = ["Tour", "TourFailure", "all_close", "error_of", "notebook", "terminal"]
