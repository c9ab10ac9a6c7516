"""The tour: autograd explained by statements that run, with every printed value checked against the mathematics."""

from frostline.autograd.tour.telling import Tour, TourFailure
from frostline.autograd.tour.voices import terminal

__all__ = ["Tour", "TourFailure", "terminal"]
