"""The graph: its leaves and roots, and how long it lives."""

import torch

from frostline.autograd.drawing import draw
from frostline.autograd.graph import walk
from frostline.autograd.tour.telling import Tour, error_of


def graph_life(tour: Tour) -> None:
    """Computational graphs."""
    tour.say(
        "Autograd keeps a directed acyclic graph of function objects. The leaves are the tensors one made oneself; "
        "the roots are the results. Each result's `grad_fn` leads to the functions that made its inputs."
    )
    a = torch.tensor([3.0, 4.0], requires_grad=True)
    b = torch.tensor([5.0, 7.0], requires_grad=True)
    Q = 3 * a**3 - b**2  # noqa: N806 - the notebook's name
    assert Q.grad_fn is not None
    tour.show("Q.grad_fn", Q.grad_fn.name())
    tour.show("its inputs", ", ".join(f.name() for f, _ in Q.grad_fn.next_functions if f is not None))
    tour.check("a and b are leaves and have no grad_fn", a.is_leaf and b.is_leaf and a.grad_fn is b.grad_fn is None)
    tour.check("Q is none", not Q.is_leaf)

    tour.say("Walking from the root to the leaves visits everything that backward will visit, here six nodes.")
    graph = walk(Q, names={"a": a, "b": b})
    for node in graph.nodes:
        tour.show(f"node {node.index}", f"{node.kind} {node.parameter or ''}".strip())
    tour.draw("autograd-q", draw(Q, names={"a": a, "b": b}, title="Q = 3a³ − b²"))
    tour.check("four operations and two leaves", len(graph.nodes) == 6 and graph.parameters == {"a", "b"})

    tour.say("The graph is made anew by each forward pass: the same expression again has functions of its own.")
    R = 3 * a**3 - b**2  # noqa: N806
    tour.check("another object, the same operation", R.grad_fn is not Q.grad_fn and type(R.grad_fn) is type(Q.grad_fn))

    tour.say("Backward frees what the graph had kept for it, so a second backward through the same graph fails.")
    total = Q.sum()
    total.backward()
    error = error_of(total.backward)
    tour.show("second backward", error)
    tour.check("the error says so", error.startswith("Trying to backward through the graph a second time"))

    tour.say(
        "`retain_graph=True` keeps it for another time. And `.grad` is a sum: each backward adds to what is there, "
        "which is why a training loop sets gradients to `None` before each step."
    )
    for leaf in (a, b):
        leaf.grad = None
    total = R.sum()
    total.backward(retain_graph=True)
    assert a.grad is not None
    once = a.grad.clone()
    total.backward()
    tour.show("a.grad after one backward", once.tolist())
    tour.show("a.grad after two", a.grad.tolist())
    tour.check("once 9a² = (81, 144), then twice that", once.tolist() == [81, 144] and a.grad.tolist() == [162, 288])

    tour.say(
        "Because the graph is made by running, ordinary control flow may change it: this loop doubles until the sum "
        "reaches 100, as often as the values need, and the gradient is 2 to that power."
    )

    def doubled(x: torch.Tensor) -> torch.Tensor:
        while x.sum() < 100:
            x = x * 2
        return x.sum()

    near = torch.tensor([30.0, 30.0], requires_grad=True)
    far = torch.tensor([3.0, 3.0], requires_grad=True)
    y, z = doubled(near), doubled(far)
    nodes = len(walk(y).nodes), len(walk(z).nodes)
    y.backward()
    z.backward()
    assert near.grad is not None
    assert far.grad is not None
    tour.show("from 30", f"{nodes[0]} nodes, gradient {near.grad.tolist()}")
    tour.show("from 3", f"{nodes[1]} nodes, gradient {far.grad.tolist()}")
    tour.check("from 30: one doubling, the sum and the leaf make 3 nodes; gradient 2", nodes[0] == 3)
    tour.check("from 3: five doublings make 7 nodes; gradient 2⁵ = 32", nodes[1] == 7)
    tour.check("the gradients are 2 and 32", near.grad.tolist() == [2, 2] and far.grad.tolist() == [32, 32])
