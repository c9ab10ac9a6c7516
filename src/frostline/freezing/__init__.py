"""What trains in which phase of a run: a policy, its application to a network, and its checks.

from frostline.freezing import FreezePolicy, FreezingSchedule

policy = FreezePolicy.static("head")
trainer = Trainer(callbacks=[FreezingSchedule(policy=policy, attribute="net")])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from frostline.freezing.policy import FreezePolicy, Phase, Until, read_policy, write_policy

if TYPE_CHECKING:
    from frostline.freezing.apply import apply_phase
    from frostline.freezing.callback import FreezingSchedule
    from frostline.freezing.report import as_text, freezing_table
    from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
    from frostline.freezing.selectors import stages_of

# Imported on first use: a policy needs neither torch nor Lightning.
_MODULE_OF = {
    "FreezingSchedule": "callback",
    "ResolvedPhase": "resolved",
    "ResolvedPolicy": "resolved",
    "apply_phase": "apply",
    "as_text": "report",
    "freezing_table": "report",
    "stages_of": "selectors",
}

__all__ = [
    "FreezePolicy",
    "FreezingSchedule",
    "Phase",
    "ResolvedPhase",
    "ResolvedPolicy",
    "Until",
    "apply_phase",
    "as_text",
    "freezing_table",
    "read_policy",
    "stages_of",
    "write_policy",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"frostline.freezing.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
