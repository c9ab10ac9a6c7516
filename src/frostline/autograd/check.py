"""Check the gradient of a head or a loss of one's own against finite differences, and describe what is wrong."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.func import functional_call

from frostline.autograd.products import by_backward, by_finite_difference


@dataclass(frozen=True)
class CheckResult:
    """The result for one tensor that the gradient is taken of; `sentence` describes it."""

    name: str
    right: bool
    sentence: str


def check_gradient(
    function: nn.Module | Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    *,
    fixed: Sequence[int] = (),
    tolerance: float = 1e-5,
) -> list[CheckResult]:
    """`torch.autograd.gradcheck` in float64, one result for each floating-point input and each parameter of a module.

    inputs: what the function is called with. Integer tensors, such as class labels, and the positions named in `fixed`
    are held constant. A module is copied, and so are its parameters; it runs in the mode it is in.
    tolerance: absolute, per entry of the Jacobian; relative tolerance is 0.001.

    Raises:
        ValueError: nothing to check, a position that does not exist, or the function fails or does not return a
            floating-point tensor.
    """
    for position in fixed:
        if not 0 <= position < len(inputs):
            raise ValueError(f"fixed names input {position}, but there are only {len(inputs)}, counted from 0.")
    module = copy.deepcopy(function).double() if isinstance(function, nn.Module) else None
    arguments = [tensor.detach().clone() for tensor in inputs]
    arguments = [tensor.double() if tensor.is_floating_point() else tensor for tensor in arguments]
    parameters = {} if module is None else {name: tensor.detach() for name, tensor in module.named_parameters()}
    checked = {
        f"input {index}": tensor.clone()
        for index, tensor in enumerate(arguments)
        if tensor.is_floating_point() and index not in fixed
    } | {f"parameter {name}": tensor.clone() for name, tensor in parameters.items()}
    if not checked:
        raise ValueError("There is no gradient to check: no floating-point input that varies, and no parameter.")

    def call(name: str, value: torch.Tensor) -> torch.Tensor:
        varied = tuple(value if name == f"input {index}" else tensor for index, tensor in enumerate(arguments))
        if module is None:
            output = function(*varied)
        else:
            state = {key: value if name == f"parameter {key}" else tensor for key, tensor in parameters.items()}
            output = functional_call(module, state, varied)
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            kind = f"{output.dtype} tensor" if isinstance(output, torch.Tensor) else type(output).__name__
            raise ValueError(f"The function must return one floating-point tensor; it returned a {kind}.")
        return output

    for name, tensor in checked.items():
        try:
            call(name, tensor)
        except RuntimeError as error:
            raise ValueError(
                f"The function fails on float64 inputs, in which gradients are checked: {error}. "
                "A tensor that it makes itself should take its dtype from the input."
            ) from error
    results = []
    for name, tensor in checked.items():
        wrong = _problem(partial(call, name), tensor.requires_grad_(), tolerance)
        sentence = wrong or f"right; {tensor.numel()} numbers agree with finite differences."
        results.append(CheckResult(name, not wrong, f"{name}: {sentence}"))
    return results


def _problem(function: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor, tolerance: float) -> str:
    """What is wrong with the gradient of a function of one tensor; empty where nothing is."""
    output = function(tensor)
    if not output.requires_grad:
        return "the result is cut off from it (detached, or computed without gradients)."
    if not torch.equal(output, function(tensor)):
        return (
            "two calls differ, so the function is random and has no gradient to check; call .eval() on a module with "
            "dropout."
        )
    try:
        gradcheck(function, (tensor,), atol=tolerance, rtol=1e-3)
    except GradcheckError:
        return f"wrong; {_where(function, tensor.detach())}"
    return ""


def _where(function: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> str:
    """Where backward and finite differences differ most, for the sum of the outputs with fixed random weights."""
    generator = torch.Generator(tensor.device).manual_seed(0)
    v = torch.rand(function(tensor).shape, dtype=tensor.dtype, device=tensor.device, generator=generator)
    ours, true = by_backward(function, (tensor,), v)[0], by_finite_difference(function, (tensor,), v)[0]
    worst = int((ours - true).abs().argmax())
    place = [int(index) for index in torch.unravel_index(torch.tensor(worst), tensor.shape)]
    return (
        f"at {place} backward says {float(ours.view(-1)[worst]):.6g}, finite differences say "
        f"{float(true.view(-1)[worst]):.6g}. A custom backward is wrong, a part is detached, or the point is a kink "
        "(a ReLU at 0)."
    )
