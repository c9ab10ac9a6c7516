"""Lightning's warning of modules in eval mode at the start of training: of ours, that is the purpose."""

import warnings
from typing import Any

from torch import nn


class EvalWarning:
    """Keeps Lightning from warning when exactly those modules are in eval mode that a phase holds there."""

    def __init__(self) -> None:
        self._filter: Any = None

    def expect(self, module: nn.Module, *, held: int) -> None:
        """Silence the warning if it would be about the held modules only; about others it may still come."""
        if sum(not part.training for part in module.modules()) == held > 0:
            warnings.filterwarnings("ignore", message=rf"Found {held} module\(s\) in eval mode")
            self._filter = warnings.filters[0]

    def forget(self) -> None:
        """Take the filter away again."""
        filters: Any = warnings.filters
        if self._filter in filters:
            filters.remove(self._filter)
        self._filter = None
