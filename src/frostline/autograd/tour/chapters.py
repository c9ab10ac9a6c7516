"""The tour's chapters, in the notebook's order."""

from collections.abc import Callable

from frostline.autograd.tour.exact_gradients import exact_gradients
from frostline.autograd.tour.exclusion import exclusion
from frostline.autograd.tour.graph_life import graph_life
from frostline.autograd.tour.telling import Tour
from frostline.autograd.tour.training_step import training_step
from frostline.autograd.tour.vector_jacobian import vector_jacobian

CHAPTERS: tuple[Callable[[Tour], None], ...] = (
    training_step,
    exact_gradients,
    vector_jacobian,
    graph_life,
    exclusion,
)


def tell_all(tour: Tour) -> None:
    """The whole tour; seconds on a CPU."""
    for chapter in CHAPTERS:
        tour.tell(chapter)
