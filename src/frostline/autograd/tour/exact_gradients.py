"""Q = 3a³ − b²: gradients that one can work out by hand."""

import torch

from frostline.autograd.tour.telling import Tour, error_of


def exact_gradients(tour: Tour) -> None:
    """Differentiation in autograd."""
    tour.say(
        "`requires_grad=True` asks autograd to record the operations on a tensor. Think of a and b as the parameters "
        "of a network and of Q as its error."
    )
    a = torch.tensor([3.0, 4.0], requires_grad=True)
    b = torch.tensor([5.0, 7.0], requires_grad=True)
    tour.show("a", a)
    tour.show("b", b)

    tour.say("Q is a vector: 3·27 − 25 = 56 and 3·64 − 49 = 143.")
    Q = 3 * a**3 - b**2  # noqa: N806 - the notebook's name
    tour.show("Q", Q)
    tour.check("Q = (56, 143)", torch.equal(Q, torch.tensor([56.0, 143.0])))

    tour.say(
        "Backward computes the gradient of one number. Q has two, so it must be told how much each counts: without "
        "the argument it refuses."
    )
    error = error_of(Q.backward)
    tour.show("Q.backward()", error)
    tour.check("nothing was computed", a.grad is None and b.grad is None)
    tour.check("the error says why", error == "grad can be implicitly created only for scalar outputs.")

    tour.say("The argument is a vector v of Q's shape; backward then gives the gradient of v·Q, here of Q₁ + Q₂.")
    external_grad = torch.tensor([1.0, 1.0])
    Q.backward(gradient=external_grad)
    assert a.grad is not None
    assert b.grad is not None
    tour.show("a, b, Q", (a.tolist(), b.tolist(), Q.tolist()))
    tour.show("a.grad", a.grad)
    tour.show("b.grad", b.grad)
    tour.check("∂Q/∂a = 9a² = (81, 144)", torch.equal(a.grad, torch.tensor([81.0, 144.0])))
    tour.check("∂Q/∂b = −2b = (−10, −14)", torch.equal(b.grad, torch.tensor([-10.0, -14.0])))

    tour.say("The same, as the notebook asks it: compare the formulas with what autograd found.")
    tour.show("9*a**2", 9 * a**2)
    tour.show("-2*b", -2 * b)
    tour.show("9*a**2 == a.grad", 9 * a**2 == a.grad)
    tour.show("-2*b == b.grad", -2 * b == b.grad)
    tour.check("both, exactly", bool((9 * a**2 == a.grad).all() and (-2 * b == b.grad).all()))

    tour.say("Summing first makes one number of Q, which needs no argument and has the same gradient.")
    a2 = a.detach().clone().requires_grad_()
    b2 = b.detach().clone().requires_grad_()
    (3 * a2**3 - b2**2).sum().backward()
    assert a2.grad is not None
    assert b2.grad is not None
    tour.show("a2.grad, b2.grad", (a2.grad.tolist(), b2.grad.tolist()))
    tour.check("Q.sum().backward() gives the same", torch.equal(a2.grad, a.grad) and torch.equal(b2.grad, b.grad))

    tour.say("Another v weighs otherwise: (1, 0) asks for the gradient of Q₁ alone.")
    a3 = a.detach().clone().requires_grad_()
    (3 * a3**3 - b.detach() ** 2).backward(gradient=torch.tensor([1.0, 0.0]))
    assert a3.grad is not None
    tour.show("a3.grad", a3.grad)
    tour.check("Q₁ does not depend on a₂: (81, 0)", torch.equal(a3.grad, torch.tensor([81.0, 0.0])))
