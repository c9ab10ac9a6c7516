"""The vector-Jacobian product Jᵀv, which is all that backward computes, in four independent ways.

For a function y = f(x) with Jacobian J (J_ij = ∂y_i/∂x_j) and a vector v of y's shape, Jᵀv has x's shape; it is the
gradient of the number v·f(x). Functions here take any number of tensors and return one tensor; the product is a tuple
with one tensor for each input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call, jacrev, vjp

Function = Callable[..., torch.Tensor]
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Comparison:
    """One way's product beside backward's; error: max |difference| / max(1, max |backward's|) over all inputs."""

    way: str
    product: Tensors
    error: float


def by_backward(function: Function, inputs: Sequence[torch.Tensor], v: torch.Tensor) -> Tensors:
    """What `y.backward(gradient=v)` leaves in `.grad`, on copies of the inputs; 0 where y does not depend on one."""
    leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
    _checked(function(*leaves), v).backward(gradient=v)
    return tuple(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)


def by_vjp(function: Function, inputs: Sequence[torch.Tensor], v: torch.Tensor) -> Tensors:
    """`torch.func.vjp`: the same reverse mode without `.grad` and without leaves."""
    output, pull_back, *_ = vjp(function, *(tensor.detach() for tensor in inputs))
    _checked(output, v)
    return tuple(pull_back(v))


def by_jacobian(function: Function, inputs: Sequence[torch.Tensor], v: torch.Tensor) -> Tensors:
    """The full Jacobian by `torch.func.jacrev`, of shape (*y.shape, *x.shape), times v. Needs y.numel() * x.numel()
    numbers."""
    tensors = tuple(tensor.detach() for tensor in inputs)
    _checked(function(*tensors), v)
    jacobians = jacrev(function, argnums=tuple(range(len(tensors))))(*tensors)
    return tuple(torch.tensordot(v, jacobian, dims=v.dim()) for jacobian in jacobians)


@torch.no_grad()
def by_finite_difference(
    function: Function, inputs: Sequence[torch.Tensor], v: torch.Tensor, *, step: float = 6e-6
) -> Tensors:
    """Central differences of v·f(x), one coordinate at a time: two evaluations for each number in the inputs.

    The default step is the cube root of float64's epsilon, where the error of the formula (step²) and that of rounding
    (epsilon/step) are about equal.

    Raises:
        ValueError: an input is not float64; in float32 the difference would lose half its digits.
    """
    if any(tensor.dtype != torch.float64 for tensor in inputs):
        raise ValueError("Finite differences need float64 inputs; call .double() on the tensors (and the module).")
    points = [tensor.detach().clone() for tensor in inputs]
    products = [torch.zeros_like(point) for point in points]
    _checked(function(*points), v)
    for point, product in zip(points, products, strict=True):
        flat = point.view(-1)
        for index, centre in enumerate(flat.tolist()):
            values = []
            for moved in (centre + step, centre - step):
                flat[index] = moved
                values.append(float((function(*points) * v).sum()))
            flat[index] = centre
            product.view(-1)[index] = (values[0] - values[1]) / (2 * step)
    return tuple(products)


WAYS: dict[str, Callable[[Function, Sequence[torch.Tensor], torch.Tensor], Tensors]] = {
    "backward": by_backward,
    "torch.func.vjp": by_vjp,
    "full Jacobian": by_jacobian,
    "finite difference": by_finite_difference,
}


def compare(function: Function, inputs: Sequence[torch.Tensor], v: torch.Tensor) -> list[Comparison]:
    """Jᵀv by all four ways, in float64, each beside backward's answer."""
    inputs, v = tuple(tensor.detach().double() for tensor in inputs), v.double()
    exact = by_backward(function, inputs, v)
    scale = max(1.0, *(float(tensor.abs().max()) for tensor in exact))
    compared = []
    for way, compute in WAYS.items():
        product = compute(function, inputs, v)
        errors = [float((ours - theirs).abs().max()) for ours, theirs in zip(product, exact, strict=True)]
        compared.append(Comparison(way, product, max(errors) / scale))
    return compared


def function_of_parameters(module: nn.Module, *arguments: torch.Tensor) -> tuple[Function, tuple[str, ...], Tensors]:
    """A module's output as a function of its parameters: (function, the parameters' names, their values), in float64.

    The module itself is left as it is, and its buffers enter as constants.
    """
    parameters = {name: _double(parameter) for name, parameter in module.named_parameters()}
    buffers = {name: _double(buffer) for name, buffer in module.named_buffers()}
    constants = tuple(map(_double, arguments))

    def function(*values: torch.Tensor) -> torch.Tensor:
        output = functional_call(module, {**buffers, **dict(zip(parameters, values, strict=True))}, constants)
        assert isinstance(output, torch.Tensor)
        return output

    return function, tuple(parameters), tuple(parameters.values())


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor


def _checked(output: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    if output.shape != v.shape:
        raise ValueError(f"v has shape {tuple(v.shape)}, but the output has {tuple(output.shape)}; they must be equal.")
    return output
