"""Jᵀv: backward against three other ways of computing the same."""

import torch
from torch import nn
from torch.func import jacrev
from torchvision.models import resnet18

from frostline.autograd.products import compare, function_of_parameters
from frostline.autograd.tour.telling import Tour


def vector_jacobian(tour: Tour) -> None:
    """Vector calculus with autograd."""
    tour.say(
        "For y = f(x) the Jacobian J holds every ∂yᵢ/∂xⱼ. Autograd never builds it: it is an engine for Jᵀ·v, one "
        "product at a time. For Q and a the Jacobian is small enough to look at, and diagonal, since Qᵢ depends on "
        "aᵢ only."
    )
    a = torch.tensor([3.0, 4.0], dtype=torch.float64)
    b = torch.tensor([5.0, 7.0], dtype=torch.float64)

    def f(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 3 * a**3 - b**2

    J = jacrev(f)(a, b)  # noqa: N806 - the letter that the field uses
    tour.show("J", J.tolist())
    tour.check("J = diag(9a²) = diag(81, 144)", torch.equal(J, torch.diag(9 * a**2)))

    tour.say(
        "If v is the gradient of a number l = g(y), then by the chain rule Jᵀ·v is the gradient of l with respect to "
        "x. Here l = Q₁² + Q₂², so v = 2Q, and the gradient must be 2Q · 9a²."
    )
    x = a.clone().requires_grad_()
    (f(x, b) ** 2).sum().backward()
    v = 2 * f(a, b)
    assert x.grad is not None
    tour.show("∂l/∂a", x.grad.tolist())
    tour.show("Jᵀ·v", (J.T @ v).tolist())
    tour.check("both are 2Q · 9a² = (9072, 41184)", x.grad.tolist() == (J.T @ v).tolist() == [9072.0, 41184.0])

    tour.say(
        "Four ways to the same product, in float64: backward; `torch.func.vjp`; the full Jacobian by "
        "`torch.func.jacrev`, times v; and finite differences, which know no calculus. Errors are relative to "
        "backward's answer."
    )
    rows = compare(f, (a, b), torch.tensor([1.0, 1.0]))
    tour.show("Q, backward", [part.tolist() for part in rows[0].product])
    for row in rows[1:]:
        tour.show(f"Q, {row.way}", f"error {row.error:.1e}")
    tour.check("Q: all four agree to 1e-9", max(row.error for row in rows) < 1e-9)
    tour.check("Q: backward is exact", [part.tolist() for part in rows[0].product] == [[81.0, 144.0], [-10.0, -14.0]])

    tour.say(
        "A small network, with respect to its four parameter tensors. It has a tanh and no ReLU: at a ReLU's kink a "
        "finite difference would be wrong, not backward."
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    function, names, values = function_of_parameters(network, torch.rand(2, 4))
    rows = compare(function, values, torch.rand(2, 3))
    tour.show("parameters", ", ".join(names))
    for row in rows[1:]:
        tour.show(f"small network, {row.way}", f"error {row.error:.1e}")
    tour.check("small network: all four agree to 1e-9", max(row.error for row in rows) < 1e-9)

    tour.say(
        "The ResNet's new head on the features of an image: 5,130 parameters and 10 outputs, so the full Jacobian "
        "already has 51,300 entries; for the whole network and 1,000 classes it would have 11.7 billion."
    )
    model = resnet18(weights=None)
    model.load_state_dict(tour.weights)
    model.fc = nn.Linear(512, 10)
    head = model.fc
    model.fc = nn.Identity()
    features = model.eval()(torch.rand(1, 3, 64, 64)).detach()
    function, names, values = function_of_parameters(head, features)
    v = torch.rand(1, 10)
    rows = compare(function, values, v)
    for row in rows[1:]:
        tour.show(f"head, {row.way}", f"error {row.error:.1e}")
    tour.check("head: all four agree to 1e-9", max(row.error for row in rows) < 1e-9)
    tour.check("head: ∂/∂bias is v itself", torch.equal(rows[0].product[names.index("bias")], v[0].double()))
    tour.check(
        "head: ∂/∂weight is v times the features, vᵀ·x",
        torch.allclose(rows[0].product[names.index("weight")], v.double().T @ features.double(), rtol=1e-12),
    )
