"""See the gradients: the graph that backward will run, what it computes, and what reaches each layer."""

from frostline.autograd.drawing import Drawing, draw, draw_operations, draw_stages
from frostline.autograd.graph import Graph, Node, walk
from frostline.autograd.observe import Observation, observe

__all__ = ["Drawing", "Graph", "Node", "Observation", "draw", "draw_operations", "draw_stages", "observe", "walk"]
