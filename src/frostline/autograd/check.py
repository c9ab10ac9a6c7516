"""Check the gradient of a head or a loss of one's own against finite differences, and describe what is wrong."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    arguments = tuple(_double(tensor) for tensor in inputs)
    checked = {f"input {index}": tensor for index, tensor in enumerate(arguments) if _varies(tensor, index, fixed)}
    parameters = dict(module.named_parameters()) if module is not None else {}
    checked |= {f"parameter {name}": parameter.detach().clone() for name, parameter in parameters.items()}
    if not checked:
        raise ValueError("There is no gradient to check: no floating-point input that varies, and no parameter.")

    def call(name: str, value: torch.Tensor) -> torch.Tensor:
        varied = tuple(value if name == f"input {index}" else tensor for index, tensor in enumerate(arguments))
        if module is None:
            output = function(*varied)
        else:
            state = {
                key: value if name == f"parameter {key}" else tensor.detach() for key, tensor in parameters.items()
            }
            output = functional_call(module, state, varied)
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            raise ValueError(f"The function must return one floating-point tensor; it returned {_described(output)}.")
        return output

    for name, tensor in checked.items():
        try:
            call(name, tensor)
        except RuntimeError as error:
            raise ValueError(
                f"The function fails on float64 inputs, in which gradients are checked: {error}. "
                "A tensor that it makes itself should take its dtype from the input."
            ) from error
    return [_check(call, name, tensor.requires_grad_(), tolerance) for name, tensor in checked.items()]


def _check(
    call: Callable[[str, torch.Tensor], torch.Tensor], name: str, tensor: torch.Tensor, tolerance: float
) -> CheckResult:
    output = call(name, tensor)
    if not output.requires_grad:
        return CheckResult(
            name, False, f"{name}: the result is cut off from it (detached, or computed without gradients)."
        )
    if not torch.equal(output, call(name, tensor)):
        return CheckResult(
            name,
            False,
            f"{name}: two calls differ, so the function is random and has no gradient to check; call .eval() on a "
            "module with dropout.",
        )
    try:
        gradcheck(lambda value: call(name, value), (tensor,), atol=tolerance, rtol=1e-3)
    except GradcheckError:
        return CheckResult(name, False, f"{name}: wrong; {_where(lambda value: call(name, value), tensor)}")
    return CheckResult(name, True, f"{name}: right; {tensor.numel()} numbers agree with finite differences.")


def _where(function: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> str:
    """Where backward and finite differences differ most, for the sum of the outputs with fixed random weights."""
    tensor = tensor.detach()
    generator = torch.Generator(tensor.device).manual_seed(0)
    v = torch.rand(function(tensor).shape, dtype=tensor.dtype, device=tensor.device, generator=generator)
    ours, true = by_backward(function, (tensor,), v)[0], by_finite_difference(function, (tensor,), v)[0]
    worst = int((ours - true).abs().argmax())
    place = ", ".join(str(int(index)) for index in torch.unravel_index(torch.tensor(worst), tensor.shape))
    return (
        f"at [{place}] backward says {float(ours.view(-1)[worst]):.6g}, finite differences say "
        f"{float(true.view(-1)[worst]):.6g}. A custom backward is wrong, a part is detached, or the point is a kink "
        "(a ReLU at 0)."
    )


def _varies(tensor: torch.Tensor, index: int, fixed: Sequence[int]) -> bool:
    return tensor.is_floating_point() and index not in fixed


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().double() if tensor.is_floating_point() else tensor


def _described(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
