"""An optimizer of your own: a torch.optim.Optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class SignDescent(torch.optim.Optimizer):
    """A step of fixed length against the sign of each gradient (Bernstein et al., 2018, arXiv 1802.04434)."""

    def __init__(self, params: Iterable[Any], *, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure computes the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad.sign()
        return loss
